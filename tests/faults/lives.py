"""Lives of jobs and services that end at a step: `python -m tests.faults.lives`, for `tests.faults.killing`.

Each line of the input is a life: `{"kind": …, "settings": {…}, "killed_at": n}`. It is lived in a process of its own, which kills
itself (`SIGKILL`) at that step, at none of them for 0; the answer is its exit code and how many steps there were. A step is the
moment before or after one of the calls that `LIVES` names. The processes are forked, because what they import takes longer than
what they do.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import importlib
import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

from companion.core.ports import Store
from companion.leadership import Leadership
from companion.metrics import Metrics
from companion.settings import Settings
from companion.stores import production
from companion.stores.embedded import observed
from companion.stores.embedded.audits import EmbeddedAudits
from companion.stores.embedded.checkpoints import EmbeddedCheckpoints
from companion.stores.embedded.documents import EmbeddedDocuments
from companion.stores.embedded.inbox import EmbeddedInbox
from companion.stores.embedded.leases import EmbeddedLeases
from companion.stores.embedded.observed import TableObserved
from companion.stores.embedded.runs import EmbeddedRuns
from companion.stores.embedded.sessions import EmbeddedSessions
from companion.stores.embedded.stats import EmbeddedStatistics
from companion.stores.mongo import following, stream
from companion.stores.mongo import watcher as watching
from companion.stores.mongo.checkpoints import MongoCheckpoints
from companion.stores.mongo.documents import MongoDocuments
from companion.stores.mongo.ranges import operation_time
from companion.stores.mongo.runs import MongoRuns
from companion.stores.mongo.stats import MongoStats
from companion.stores.mongo.stream import ChangeStream
from companion.stores.mongo.watcher import MongoWatcher
from companion.stores.opening import open_store
from companion.stores.redis import facts
from companion.stores.redis.facts import RedisFacts
from companion.stores.redis.leases import RedisLeases
from companion.stores.redis.mirror import RedisMirror
from companion.stores.redis.stats import RedisTally
from maintenance import anonymizer, engine, housekeeping, mirror_reconcile
from maintenance import observer as observing
from maintenance.archive import bucket, folder, s3
from maintenance.catalogue import load_jobs
from maintenance.job import Job
from maintenance.mirroring import Mirroring
from maintenance.observer import Observer
from tests.support.eventually import eventually

LEASE_SECONDS: Final = 0.6
_LIFE_SECONDS: Final = 100.0
_LOOK_SECONDS: Final = 0.1
_END_SECONDS: Final = 10.0

Steps = Sequence[tuple[Any, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Life:
    """What is lived, and around which calls it can end.

    `smaller` are constants that make few documents many steps, `needs` modules that it would import only when it comes to them.
    """

    live: Callable[[Settings], Awaitable[None]]
    steps: Steps
    smaller: Mapping[tuple[Any, str], Any] = field(default_factory=dict)
    needs: Sequence[str] = ()


# What is only looked at to see whether a life is over is no step of it.
_looking: contextvars.ContextVar[bool] = contextvars.ContextVar("looking", default=False)


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """Make calls that are no steps."""
    token = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(token)


class Counter:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, killed_at: int) -> None:
        self.steps = 0
        self._killed_at = killed_at

    def step(self) -> None:
        if _looking.get():
            return
        self.steps += 1
        if self.steps == self._killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str) -> None:
        """Let the moments before and after a call be steps."""
        real = getattr(owner, name)

        @functools.wraps(real)
        async def awaited(*args: Any, **more: Any) -> Any:
            self.step()
            result = await real(*args, **more)
            self.step()
            return result

        @functools.wraps(real)
        def called(*args: Any, **more: Any) -> Any:
            self.step()
            result = real(*args, **more)
            self.step()
            return result

        setattr(owner, name, awaited if inspect.iscoroutinefunction(real) else called)


_jobs: Final = functools.cache(load_jobs)


async def run_what_waits(settings: Settings) -> None:
    """Take the runs that wait, and those that were left, until all have ended."""
    jobs = _jobs()
    for job in jobs.values():
        _shorten(job)
    async with open_store(settings) as store:
        one = engine.Engine(
            jobs=jobs,
            # While one is at work nobody asks for others.
            served=frozenset(run.job for run in await store.runs.list() if run.job in jobs),
            schedules={name: job.schedule for name, job in jobs.items()},
            settings=settings,
            store=store,
            metrics=Metrics(),
            holder=f"life {os.getpid()}",
        )
        task = asyncio.create_task(one.run())
        while not all(run.ended for run in await store.runs.list()):  # noqa: ASYNC110 - a store has no event
            await asyncio.sleep(_LOOK_SECONDS)
        await one.finish(_END_SECONDS)
        await task


async def _counted(store: Store, last: AbstractSet[str]) -> bool:
    return not last.isdisjoint((await store.statistics.positions()).values())


def _shorten(job: Job) -> None:
    """Let the next life wait no longer than it has to."""
    kind: Any = type(job)
    kind.lease_seconds = LEASE_SECONDS


async def count_what_is_there(settings: Settings) -> None:
    """Count until everything that is in the inbox is counted and flushed."""
    async with open_store(settings) as store:
        sources = list(store.observed(settings.counting()))
        one = Observer(
            sources=sources,
            statistics=store.statistics,
            zones=settings.zones(),
            flush_seconds=0.02,
            metrics=Metrics(),
        )
        leadership = Leadership(store.leases, "observer", f"life {os.getpid()}", LEASE_SECONDS)
        task = asyncio.create_task(leadership.run(one.run))
        with looking():
            last = (await store.inbox.read(0, 1000))[-1].position
            await eventually(lambda: _counted(store, {f"{last}", f"{last}-0"}), _LIFE_SECONDS, "everything is counted")
        leadership.stop()
        await one.finish(_END_SECONDS)
        await task


async def mirror_what_is_there(settings: Settings) -> None:
    """Keep the mirror until it is built, change something, and keep it until that is there too."""
    async with open_store(settings) as store:
        watcher = store.watcher
        assert isinstance(watcher, MongoWatcher)
        watcher._batch = 3
        leadership = Leadership(store.leases, "mirror", f"life {os.getpid()}", LEASE_SECONDS)
        mirroring = Mirroring(watcher, leadership, Metrics())
        task = asyncio.create_task(mirroring.run())
        with looking():
            await _settled(watcher)
            await _edit(watcher)
            await _settled(watcher)
        await mirroring.finish()
        await task


async def _settled(watcher: MongoWatcher) -> None:
    """Wait until all that was written before is in the mirror, and nothing is being copied."""
    now = await operation_time(watcher._client)
    at = f"{now.time}.{now.inc}"

    async def current() -> bool:
        kept = (await watcher._place()).kept
        return await watcher.rebuilt(at) and all(kept.get(hot.place) is not None for hot in watcher._hots.values())

    await eventually(current, _LIFE_SECONDS, "the mirror is current")


async def _edit(watcher: MongoWatcher) -> None:
    """Change, delete and add somebody; done twice it is the same."""
    db, _, name = next(one for one in watcher.collections if one.endswith(".users")).partition(".")
    users = watcher._client.driver[db][name]
    await users.update_one({"_id": "0"}, {"$set": {"password": "new"}})
    await users.update_one({"_id": "1"}, {"$set": {"deleted_at": 1}})
    await users.delete_one({"_id": "2"})
    await users.update_one({"_id": "new"}, {"$set": {"username": "somebody", "password": "x"}}, upsert=True)


_RUNS: Final = ("begin", "advance", "end")
_LEASES: Final = ("acquire", "release")
_EMBEDDED: Final[Steps] = ((EmbeddedRuns, _RUNS), (EmbeddedLeases, _LEASES))
_PRODUCTION: Final[Steps] = ((MongoRuns, _RUNS), (RedisLeases, _LEASES))
_LOOKS: Final[Mapping[tuple[Any, str], Any]] = {
    (engine, "_LOOK_SECONDS"): _LOOK_SECONDS,
    (engine, "_ABANDONED_SECONDS"): _LOOK_SECONDS,
}
# Every batch is noted.
_ENGINE: Final[Mapping[tuple[Any, str], Any]] = {**_LOOKS, (engine, "_NOTE_SECONDS"): 0.0}

LIVES: Final[Mapping[str, Life]] = {
    "cleaner-folder": Life(
        run_what_waits,
        (
            *_EMBEDDED,
            (EmbeddedDocuments, ("due", "remove")),
            (folder.Writing, ("add",)),
            (folder, ("_sync", "_compare", "_sync_folder")),
            (Path, ("replace", "mkdir")),
        ),
        _LOOKS,
    ),
    # Around every request that writes, and around the removal.
    "cleaner-storage": Life(
        run_what_waits,
        (
            (EmbeddedDocuments, ("remove",)),
            (bucket.Bucket, ("begin", "part", "complete", "put")),
        ),
        {**_LOOKS, (s3, "_PART_BYTES"): 80},
        ("boto3.s3.inject", "boto3.s3.transfer", "botocore.config"),
    ),
    "housekeeping": Life(
        run_what_waits,
        (
            *_EMBEDDED,
            (EmbeddedInbox, ("prune",)),
            (EmbeddedAudits, ("prune", "trim")),
            (EmbeddedSessions, ("prune",)),
            (EmbeddedRuns, ("prune",)),
            (EmbeddedCheckpoints, ("load",)),
        ),
        {**_ENGINE, (housekeeping, "_BATCH"): 2},
    ),
    "anonymizer": Life(
        run_what_waits,
        (
            *_PRODUCTION,
            (MongoDocuments, ("count_due", "due", "matching", "replace")),
            # Within the transaction.
            (AsyncCollection, ("bulk_write",)),
        ),
        {**_ENGINE, (anonymizer, "_ACCOUNTS"): 1, (anonymizer, "_PAGE"): 3},
    ),
    "mirror-reconcile": Life(
        run_what_waits,
        (
            *_PRODUCTION,
            (MongoWatcher, ("ask_for_rebuild", "rebuilt", "compare", "_repair")),
            # Between what is asked for and what is noted of it.
            (watching, ("operation_time",)),
            (RedisMirror, ("digest", "digests", "put")),
        ),
        {**_ENGINE, (mirror_reconcile, "_BATCH"): 4},
    ),
    "observer-embedded": Life(
        count_what_is_there,
        (
            (EmbeddedLeases, _LEASES),
            (EmbeddedStatistics, ("claim", "apply", "flush", "positions")),
            (TableObserved, ("open", "read", "settled")),
        ),
        {(observing, "_READ"): 2, (observed, "_IDLE_SECONDS"): 0.05},
    ),
    "observer-production": Life(
        count_what_is_there,
        (
            (RedisLeases, _LEASES),
            (RedisTally, ("claim", "apply", "freeze", "frozen", "drop")),
            (MongoStats, ("reached", "add")),
            (RedisFacts, ("open", "read", "settled")),
            (AsyncCollection, ("bulk_write",)),
        ),
        {(observing, "_READ"): 2, (facts, "_IDLE_SECONDS"): 0.05},
    ),
    "watcher": Life(
        mirror_what_is_there,
        (
            (RedisLeases, _LEASES),
            (RedisMirror, ("clock", "begin", "put", "promote", "serve", "sweep")),
            (MongoCheckpoints, ("claim", "save")),
            (ChangeStream, ("open", "read")),
            (following, ("read_range",)),
        ),
        {(following, "_BEAT_SECONDS"): 0.1, (following, "_PUT"): 2, (stream, "_PATIENCE_SECONDS"): 0.1},
    ),
}


async def _no_indexes(_client: Any, _wanted: Any, idle: asyncio.Event) -> None:
    """Leave the indexes as they are: whoever prepared the life has made them."""
    idle.set()


async def live(kind: str, settings: Mapping[str, Any], killed_at: int) -> int:
    """Live; return how many steps there were."""
    life = LIVES[kind]
    counter = Counter(killed_at)
    for (owner, name), value in {**life.smaller, (production, "_keep_indexes"): _no_indexes}.items():
        setattr(owner, name, value)
    for owner, names in life.steps:
        for name in names:
            counter.around(owner, name)
    await life.live(Settings.model_validate(settings))
    return counter.steps


def main() -> None:
    """Answer line by line."""
    _jobs()
    for line in sys.stdin:
        wanted = json.loads(line)
        for name in LIVES[wanted["kind"]].needs:
            importlib.import_module(name)
        # What is there before a life begins is no garbage of it: nor need it be looked through, nor its pages be copied for that.
        gc.freeze()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(reading)
                os.dup2(2, 1)  # what is logged is no answer
                os.write(writing, str(asyncio.run(live(**wanted))).encode())
                code = 0
            except BaseException:  # noqa: BLE001 - told to whoever reads the log, as an exit code
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reading) as told:
            steps = told.read()
        sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(status), int(steps or 0)]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
