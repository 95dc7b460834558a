"""Runs of maintenance jobs: what was asked for, how far it has come, how it ended. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class RunState(StrEnum):
    """Where a run stands. LOST: its process died, and the job does not go on where another left off."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


ENDED: Final = frozenset({RunState.DONE, RunState.FAILED, RunState.CANCELLED, RunState.LOST})


class Trigger(StrEnum):
    """Why a run was asked for."""

    SCHEDULE = "schedule"
    PERSON = "person"
    RETRY = "retry"
    INCIDENT = "incident"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come in all: `done` of `total` (None: not known), what was counted, where a new life would go on."""

    done: int = 0
    total: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    position: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One run. Times are Unix milliseconds; `due_at` is when it should begin.

    `fence` is the token of the lease under which it runs; `beat_at` is when its process was last heard of.
    """

    id: str
    job: str
    trigger: Trigger
    requested_at: int
    due_at: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dry: bool = False
    priority: int = 0
    attempt: int = 1
    state: RunState = RunState.WAITING
    cancelling: bool = False
    holder: str = ""
    fence: int = 0
    started_at: int | None = None
    beat_at: int | None = None
    ended_at: int | None = None
    batches: int = 0
    progress: Progress = field(default_factory=Progress)
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED

    def rate(self, now: int) -> float | None:
        """Return how many are done a second, on average; None before the first."""
        if self.started_at is None or not self.progress.done:
            return None
        return self.progress.done * 1000 / max(1, (self.ended_at or now) - self.started_at)

    def seconds_left(self, now: int) -> float | None:
        """Return how long it will take from now at that rate; None where nobody can tell."""
        rate = self.rate(now)
        if self.ended or rate is None or self.progress.total is None:
            return None
        return max(0, self.progress.total - self.progress.done) / rate
