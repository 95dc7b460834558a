"""Maintenance, wired: what it needs comes in once, here."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from companion.background import background
from companion.core.ports import Store
from companion.job_settings import JobSettings
from companion.metrics import Metrics
from companion.settings import Settings
from maintenance.catalogue import load_jobs, schedules, served
from maintenance.clockwork import Clockwork
from maintenance.engine import Engine
from maintenance.job import Job


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Running maintenance. `asked` is to be called when somebody asked for a run."""

    jobs: Mapping[str, Job]
    schedules: Mapping[str, JobSettings]
    asked: Callable[[], None]
    engine: Engine

    async def trouble(self) -> str | None:
        """Return why no runs can be taken, or None."""
        return self.engine.problem


@contextlib.asynccontextmanager
async def running_maintenance(settings: Settings, store: Store, metrics: Metrics) -> AsyncIterator[Maintenance]:
    """Run jobs until the block ends; what runs then comes to the end of its batch, and goes on in another process.

    Raises `Invalid` for settings of jobs that there are not.
    """
    jobs = load_jobs()
    plan, names = schedules(jobs, settings), served(jobs, settings)
    engine = Engine(
        jobs=jobs,
        served=names,
        schedules=plan,
        settings=settings,
        store=store,
        metrics=metrics,
        holder=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
    )
    works: list[Coroutine[Any, Any, None]] = []
    if settings.jobs_mode != "none":
        clockwork = Clockwork({name: plan[name] for name in sorted(names)}, engine.tick)
        works = [engine.run(), clockwork.run()]
    async with background(*works, finish=lambda: engine.finish(settings.shutdown_deadline)):
        yield Maintenance(jobs, plan, engine.wake, engine)
