"""`kill -9` at every step: a life ends before and after each of its calls, in turn, and the next one comes to the same end.

`tests.faults.lives` says what is lived and what its steps are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from pymongo import AsyncMongoClient

from companion.core.runs import Run, RunState
from companion.settings import Settings
from companion.stores.embedded import EmbeddedStore
from companion.stores.production import ProductionStore
from maintenance.job import Job
from maintenance.records import request_of
from tests.conftest import Note
from tests.support.emqx import Emqx, options
from tests.support.mongo import mongo_server
from tests.support.production import settings_of
from tests.support.redis import redis_server

Driver = AsyncMongoClient[dict[str, Any]]

ROOT: Final = Path(__file__).parents[2]
PARALLEL: Final = 4
PATIENCE: Final = {"hooks_deadline": 60.0, "mongo_timeout": 20.0, "redis_timeout": 20.0}
_LIFE_SECONDS: Final = 120.0


class Case(Protocol):
    """A place where lives are lived, again and again, one after the other."""

    async def prepare(self) -> Mapping[str, Any]:
        """Let everything be as it is before the first life; return the settings."""
        ...

    async def check(self, *, undisturbed: bool) -> None:
        """Check that everything is as it has to be at the end."""
        ...


class Folders:
    """Of a case: a data folder for each time, and the run that was asked for in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._times = 0
        self.run_id = ""

    @property
    def data(self) -> Path:
        return self._folder / f"{self._times}"

    def begin(self) -> int:
        """Begin with an empty folder; return the time."""
        self._times += 1
        return int(time.time() * 1000)

    async def ask(self, store: EmbeddedStore, job: Job, now: int) -> None:
        run = request_of(job, {}, now)
        await store.runs.add(run)
        self.run_id = run.id

    async def done(self, store: EmbeddedStore) -> Run:
        run = await store.runs.get(self.run_id)
        assert run is not None
        assert run.state is RunState.DONE, run
        return run


class BesideEmqx(Folders):
    """The same, and the broker that it concerns, which knows of nobody at the beginning."""

    def __init__(self, folder: Path, emqx: Emqx) -> None:
        super().__init__(folder)
        self.emqx = emqx

    def begin(self) -> int:
        self.emqx.forget()
        return super().begin()

    def settings(self, **more: object) -> Mapping[str, Any]:
        return {"data_dir": self.data, **options(self.emqx.url, emqx_timeout=20.0), **more}


@contextlib.asynccontextmanager
async def brokers() -> AsyncIterator[Sequence[Emqx]]:
    """Serve the API of a broker for each case."""
    async with contextlib.AsyncExitStack() as stack:
        found = [Emqx() for _ in range(PARALLEL)]
        for emqx in found:
            await stack.enter_async_context(emqx.serving())
        yield found


class Nursery:
    """Processes in which lives begin."""

    def __init__(self, processes: Sequence[Process], log: Path) -> None:
        self._free: asyncio.Queue[Process] = asyncio.Queue()
        self._log = log
        for process in processes:
            self._free.put_nowait(process)

    async def life(self, kind: str, settings: Mapping[str, Any], killed_at: int = 0) -> int | None:
        """Live once; return how many steps there were, or None when it was killed."""
        process = await self._free.get()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(
            json.dumps({"kind": kind, "settings": settings, "killed_at": killed_at}, default=str).encode() + b"\n"
        )
        async with asyncio.timeout(_LIFE_SECONDS):
            answer = await process.stdout.readline()
        self._free.put_nowait(process)
        assert answer, self._tail()
        code, steps = json.loads(answer)
        if code == -signal.SIGKILL:
            return None
        assert code == 0, self._tail()
        return int(steps)

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


@contextlib.asynccontextmanager
async def nursery(folder: Path, count: int = PARALLEL) -> AsyncIterator[Nursery]:
    """Have so many processes until the block ends."""
    log = folder / "lives.log"
    async with contextlib.AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(_process(log)) for _ in range(count)]
        yield Nursery(processes, log)


@contextlib.asynccontextmanager
async def _process(log: Path) -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "tests.faults.lives"]
    with log.open("ab") as told:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=told, start_new_session=True
        )
    try:
        yield process
    finally:
        # With the life that it may be waiting for.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@dataclass(frozen=True, slots=True)
class Place:
    """Databases, and keys of Redis, of one case; `settings` are those of the service over them."""

    settings: Mapping[str, object]
    driver: Driver
    store: ProductionStore


@contextlib.asynccontextmanager
async def places(folder: Path, **settings: object) -> AsyncIterator[Sequence[Place]]:
    """Run a MongoDB and a Redis for one test, and open places in them."""
    (folder / "mongo").mkdir()
    async with contextlib.AsyncExitStack() as stack:
        mongo = await stack.enter_async_context(mongo_server(folder / "mongo"))
        redis = await stack.enter_async_context(redis_server(folder / "redis"))
        driver: Driver = await stack.enter_async_context(AsyncMongoClient(mongo.url))
        found = []
        for _ in range(PARALLEL):
            values = {**settings_of(mongo.url, redis.url), **PATIENCE, **settings}
            store = await stack.enter_async_context(ProductionStore.open(Settings.model_validate(values)))
            found.append(Place(values, driver, store))
        yield found


async def kill_at_every_step(
    folder: Path, note: Note, kind: str, cases: Sequence[Case], *, exact: bool = True
) -> tuple[int, int]:
    """Kill at each step of an undisturbed life, in turn, in all cases at once; return how many steps and kills there were.

    Where lives are not `exact`, because they wait for others, one may be over before it comes to the step.
    """
    async with nursery(folder) as births:
        steps, kills = await _kill_at_every_step(births, kind, cases, exact=exact)
    note(f"{kind}: {kills} kills at {steps} steps")
    return steps, kills


async def _kill_at_every_step(births: Nursery, kind: str, cases: Sequence[Case], *, exact: bool) -> tuple[int, int]:
    # A renewal of a lease is a step too: a life that happens to be slow has more of them than others.
    undisturbed = await asyncio.gather(*(_undisturbed(births, kind, case) for case in cases))
    least, steps = min(undisturbed), max(undisturbed)
    waiting, kills = iter(range(1, steps + 1)), 0

    async def some(case: Case) -> None:
        nonlocal kills
        for at in waiting:
            settings = await case.prepare()
            killed = await births.life(kind, settings, at) is None
            kills += killed
            if killed:
                assert await births.life(kind, settings) is not None
            try:
                await case.check(undisturbed=False)
            except AssertionError as problem:
                raise AssertionError(f"step {at} of {steps}, {killed=}: {problem}") from problem
            # Only now: where a life has ended otherwise, the check says how.
            assert killed or not exact or at > least, f"not killed at step {at} of {steps}"

    await asyncio.gather(*map(some, cases))
    return steps, kills


async def _undisturbed(births: Nursery, kind: str, case: Case) -> int:
    """Live once without being killed; return how many steps there were."""
    steps = await births.life(kind, await case.prepare())
    assert steps is not None
    await case.check(undisturbed=True)
    return steps
