"""Records of runs of jobs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from companion.core.runs import Progress, Run, RunState


class Runs(Protocol):
    """Records of runs of jobs. Every call that changes a running one bears its fence."""

    async def add(self, run: Run) -> bool:
        """Store a new one; False, and nothing is changed, when there is one of this id: nobody asks twice for the same tick."""
        ...

    async def get(self, run_id: str) -> Run | None:
        """Return the run; None when there is none."""
        ...

    async def list(
        self, *, jobs: Collection[str] | None = None, states: Collection[RunState] | None = None, limit: int = 100
    ) -> Sequence[Run]:
        """Return up to `limit` of these jobs and states (None: all), those requested last first."""
        ...

    async def waiting(self, jobs: Collection[str], now: int, limit: int = 100) -> Sequence[Run]:
        """Return up to `limit` waiting ones that are due: by priority, the highest first, then by the time that they were due."""
        ...

    async def begin(self, run_id: str, holder: str, fence: int, now: int) -> Run | None:
        """Let a waiting or running one run under this fence; None when it has ended. Raises `Fenced` below its fence."""
        ...

    async def advance(self, run_id: str, fence: int, progress: Progress, batches: int, now: int) -> bool:
        """Note how far it has come; return whether it was asked to end. Raises `Fenced` when it is not ours any more."""
        ...

    async def end(self, run_id: str, fence: int, state: RunState, error: str, now: int) -> None:
        """Note how it ended, or with WAITING that it goes on later, in another life. Raises `Fenced`, as above."""
        ...

    async def cancel(self, run_id: str, now: int) -> Run | None:
        """End a waiting one, and ask a running one to end; return it as it then is, None when there is none."""
        ...

    async def prune(self, *, keep: int, before: int, limit: int, dry: bool = False) -> int:
        """Remove up to `limit` ended ones that ended before `before`, but of each job not its `keep` newest; return how many.

        `dry` only counts them.
        """
        ...
