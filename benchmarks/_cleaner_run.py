"""One way to remove old records, measured in a process of its own; its task comes on standard input."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from pymongo import MongoClient

from companion.core.errors import Transient
from companion.core.ports import Store
from companion.core.runs import RunState
from companion.logs import configure_logs
from companion.metrics import Metrics
from companion.settings import Settings
from companion.stores.embedded.store import FILE_NAME
from companion.stores.opening import open_store
from maintenance.catalogue import load_jobs
from maintenance.cleaner import Cleaner
from maintenance.engine import Engine
from maintenance.records import request_of

Way = Literal["bare", "remove", "archive"]
_COLLECTION: Final = "mqtt_audits"
_LOOK_SECONDS: Final = 0.02


class Task(msgspec.Struct):
    """What to do: everything in the collection is due, `batch` at a time."""

    way: Way
    folder: str
    batch: int
    count: int
    settings: dict[str, Any]


class Result(msgspec.Struct):
    """How long it took, and by how much the process grew meanwhile."""

    seconds: float
    grown_bytes: int


def measured(task: Task) -> Result:
    """Do it."""
    work = _bare(task) if task.way == "bare" else lambda: asyncio.run(_clean(task))
    before, started = _resident(), time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    # The peak of the process counts: what was given back meanwhile was needed all the same.
    return Result(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def _resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _bare(task: Task) -> Callable[[], None]:
    return _bare_mongo(task) if task.settings["store"] == "production" else _bare_sqlite(task)


def _bare_sqlite(task: Task) -> Callable[[], None]:
    """Delete by id, a transaction a batch, as durable as the store."""

    def work() -> None:
        connection = sqlite3.connect(Path(task.folder) / FILE_NAME, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        while ids := [row[0] for row in connection.execute("SELECT id FROM audits ORDER BY id LIMIT ?", (task.batch,))]:
            connection.execute("DELETE FROM audits WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),))
        connection.close()

    return work


def _bare_mongo(task: Task) -> Callable[[], None]:
    def work() -> None:
        with MongoClient[dict[str, Any]](task.settings["mongo_url"]) as client:
            collection = client[task.settings["mongo_database"]][_COLLECTION]
            while found := list(collection.find({}, {"_id": 1}).sort("_id", 1).limit(task.batch)):
                collection.delete_many({"_id": {"$in": [one["_id"] for one in found]}})

    return work


async def _clean(task: Task) -> None:
    policy = {
        "collection": _COLLECTION,
        "time": "at",
        "days": 1,
        "batch": task.batch,
        "most": 100,
        "archive": task.way == "archive",
    }
    settings = Settings.model_validate(
        {
            **task.settings,
            "data_dir": task.folder,
            "cleaner_archive": str(Path(task.folder, "archive")),
            "cleaner_policies": {"audits": policy},
        }
    )
    async with open_store(settings) as store:
        jobs = load_jobs()
        engine = Engine(
            jobs=jobs,
            served=frozenset({"cleaner"}),
            schedules={name: job.schedule for name, job in jobs.items()},
            settings=settings,
            store=store,
            metrics=Metrics(),
            holder="benchmark",
        )
        run = request_of(Cleaner(), {"policy": "audits"}, int(time.time() * 1000))
        await store.runs.add(run)
        running = asyncio.create_task(engine.run())
        await _ended(store, run.id, task.count)
        await engine.finish(1)
        await running


async def _ended(store: Store, run_id: str, count: int) -> None:
    while True:
        # MongoDB may be too busy with the run to answer us.
        with contextlib.suppress(Transient):
            run = await store.runs.get(run_id)
            if run is not None and run.ended:
                break
        await asyncio.sleep(_LOOK_SECONDS)
    if run.state is not RunState.DONE or run.progress.done != count:
        raise RuntimeError(f"{run.state}: {run.error}, {run.progress}")


if __name__ == "__main__":
    configure_logs("json", "error")
    sys.stdout.buffer.write(msgspec.json.encode(measured(msgspec.json.decode(sys.stdin.buffer.read(), type=Task))))
