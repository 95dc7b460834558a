"""Engines of jobs over one real store, and a job whose batches a test holds up, stops or lets fail."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from companion.background import background
from companion.core.runs import Progress, Run, RunState
from companion.job_settings import JobSettings
from companion.metrics import Metrics
from companion.stores.embedded import EmbeddedStore
from maintenance.engine import Engine
from maintenance.job import Work
from maintenance.records import request_of
from tests.support.eventually import eventually
from tests.support.service import make_settings

LEASE = 0.6


@dataclass
class Steps:
    """A job of a few batches; a test may stop it, or let it fail, at one of them."""

    name: str = "steps"
    purpose: str = "counts"
    parameters: Mapping[str, str] = field(default_factory=lambda: {"steps": "how many"})
    schedule: JobSettings = field(default_factory=JobSettings)
    lease_seconds: float = LEASE
    resumes: bool = True
    steps: int = 3
    at: dict[int, Callable[[], Any]] = field(default_factory=dict)
    lives: list[tuple[str, int]] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0

    async def batches(self, work: Work) -> AsyncIterator[Progress]:
        self.lives.append((work.run.id, work.term.lease.token))
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            for step in range(int(work.run.progress.position or 0), int(work.run.parameters.get("steps", self.steps))):
                if step in self.at:
                    await self.at[step]()
                self.done.append(step)
                yield Progress(step + 1, self.steps, {"counted": step + 1}, str(step + 1))
        finally:
            self.busy -= 1


@dataclass
class House:
    """Engines over one store."""

    folder: Path
    store: EmbeddedStore
    schedules: dict[str, JobSettings]
    metrics: Metrics = field(default_factory=Metrics)

    def engine(self, *jobs: Steps, name: str = "one", **settings: Any) -> Engine:
        known = {job.name: job for job in jobs}
        return Engine(
            jobs=known,
            served=frozenset(known),
            schedules={job.name: self.schedules.get(job.name, job.schedule) for job in jobs},
            settings=make_settings(self.folder, **settings),
            store=self.store,
            metrics=self.metrics,
            holder=name,
        )

    async def ask(self, job: Steps, **parameters: Any) -> Run:
        run = request_of(job, parameters, int(time.time() * 1000))
        await self.store.runs.add(run)
        return run

    async def reaches(self, run_id: str, *states: RunState) -> Run:
        async def there() -> Run | None:
            run = await self.store.runs.get(run_id)
            return run if run is not None and run.state in states else None

        return await eventually(there, what=f"{run_id} is {states}")

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with EmbeddedStore.open(tmp_path) as store:
        yield House(tmp_path, store, {})


@contextlib.asynccontextmanager
async def at_work(*engines: Engine) -> AsyncIterator[None]:
    async def finish() -> None:
        await asyncio.gather(*(engine.finish(5) for engine in engines))

    async with background(*(engine.run() for engine in engines), finish=finish):
        yield


class Gate:
    """Holds a job at a batch until the test opens it."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()
