"""What a job is, for the engine and for those who write one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from companion.core.errors import Invalid
from companion.core.ports import Store
from companion.core.runs import Progress, Run
from companion.job_settings import JobSettings
from companion.leadership import Term
from companion.metrics import Metrics
from companion.settings import Settings


@dataclass(frozen=True, slots=True)
class Work:
    """One life of a run: the record as it was when this life began, and what a job needs to do its work.

    `run.progress` is how far earlier lives have come, `run.dry` says to write nothing and report the same. Every write that nobody
    else may make bears `term.lease.token`, or is made only while `term.valid`.
    """

    run: Run
    term: Term
    settings: Settings
    store: Store
    now: Callable[[], float] = field(default=time.time)
    """Unix seconds."""

    metrics: Metrics = field(default_factory=Metrics)
    """Those of the process."""


class Job(Protocol):
    """A job. It is stateless: what a run has to remember is in its progress."""

    @property
    def name(self) -> str:
        """The name: lower-case letters, digits and `-`; also a label of metrics."""
        ...

    @property
    def purpose(self) -> str:
        """One line for people: what it does."""
        ...

    @property
    def parameters(self) -> Mapping[str, str]:
        """The parameters that a request may bear, each with a line about it."""
        ...

    @property
    def schedule(self) -> JobSettings:
        """When it runs where the settings say nothing about it."""
        ...

    @property
    def lease_seconds(self) -> float:
        """How long a process that died holds back the next life of its run; a batch takes much less."""
        ...

    @property
    def resumes(self) -> bool:
        """Whether a new life goes on where another left off; without it, a run whose process died is lost."""
        ...

    def batches(self, work: Work) -> AsyncIterator[Progress]:
        """Do the work; after every batch yield how far the run has come in all. Between two batches it may end.

        What is yielded is noted a few times a second, so another life may do again what the last moments of one that died had
        done. A batch takes less than a second.

        Raises `Invalid` for parameters that cannot be used, `Transient` when a store is away.
        """
        ...


@runtime_checkable
class Particular(Protocol):
    """What a job has besides that has nothing to do under some settings: there it is not scheduled, and who asks is told why."""

    def lacks(self, settings: Settings, *, dry: bool) -> str | None:
        """Return in a few words what it needs and these settings do not give it; None when it has something to do."""
        ...


def lack_of(job: Job, settings: Settings, *, dry: bool = False) -> str | None:
    """Return what a job needs and does not get, as `Particular` says."""
    return job.lacks(settings, dry=dry) if isinstance(job, Particular) else None


def lacking(name: str, lack: str) -> Invalid:
    """Return the error for who wants a job that lacks something."""
    return Invalid("job", name, f"it needs {lack}")


def check_lack(job: Job, settings: Settings, *, dry: bool = False) -> None:
    """Raise that error if the job lacks something."""
    if lack := lack_of(job, settings, dry=dry):
        raise lacking(job.name, lack)


Factory = Callable[[], Job]
"""Makes a job; what the entry points of the group `companion.jobs` name."""
