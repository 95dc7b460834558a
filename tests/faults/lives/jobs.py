"""Jobs: the runs that wait are taken until all have ended."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

from companion.emqx_api import EmqxApi
from companion.metrics import Metrics
from companion.settings import Settings
from companion.stores.embedded.audits import EmbeddedAudits
from companion.stores.embedded.checkpoints import EmbeddedCheckpoints
from companion.stores.embedded.documents import EmbeddedDocuments
from companion.stores.embedded.inbox import EmbeddedInbox
from companion.stores.embedded.leases import EmbeddedLeases
from companion.stores.embedded.runs import EmbeddedRuns
from companion.stores.embedded.sessions import EmbeddedSessions
from companion.stores.mongo import watcher as watching
from companion.stores.mongo.documents import MongoDocuments
from companion.stores.mongo.runs import MongoRuns
from companion.stores.mongo.watcher import MongoWatcher
from companion.stores.opening import open_store
from companion.stores.redis.leases import RedisLeases
from companion.stores.redis.mirror import RedisMirror
from maintenance import anonymizer, audit_check, engine, housekeeping, mirror_reconcile, roots, sessions_reconcile
from maintenance.archive import bucket, folder, s3
from maintenance.catalogue import load_jobs
from maintenance.job import Job
from tests.faults.lives.life import END_SECONDS, LEASE_SECONDS, LEASES, LOOK_SECONDS, Life, Steps

load_jobs_once: Final = functools.cache(load_jobs)


async def run_what_waits(settings: Settings) -> None:
    """Take the runs that wait, and those that were left, until all have ended."""
    jobs = load_jobs_once()
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
            await asyncio.sleep(LOOK_SECONDS)
        await one.finish(END_SECONDS)
        await task


def _shorten(job: Job) -> None:
    """Let the next life wait no longer than it has to."""
    kind: Any = type(job)
    kind.lease_seconds = LEASE_SECONDS


_RUNS: Final = ("begin", "advance", "end")
_EMBEDDED: Final[Steps] = ((EmbeddedRuns, _RUNS), (EmbeddedLeases, LEASES))
_PRODUCTION: Final[Steps] = ((MongoRuns, _RUNS), (RedisLeases, LEASES))
_LOOKS: Final[Mapping[tuple[Any, str], Any]] = {
    (engine, "_LOOK_SECONDS"): LOOK_SECONDS,
    (engine, "_ABANDONED_SECONDS"): LOOK_SECONDS,
}
# Every batch is noted.
_ENGINE: Final[Mapping[tuple[Any, str], Any]] = {**_LOOKS, (engine, "_NOTE_SECONDS"): 0.0}

JOBS: Final[Mapping[str, Life]] = {
    "cleaner-folder": Life(
        run_what_waits,
        (
            *_EMBEDDED,
            (EmbeddedDocuments, ("due", "remove", "remove_as_read")),
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
            (EmbeddedDocuments, ("remove", "remove_as_read")),
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
    "sessions-reconcile": Life(
        run_what_waits,
        (*_EMBEDDED, (EmbeddedAudits, ("append",)), (EmqxApi, ("_once",))),
        {**_ENGINE, (sessions_reconcile, "_KICKS"): 2},
    ),
    "auditor": Life(
        run_what_waits,
        (
            *_EMBEDDED,
            (EmbeddedAudits, ("chains", "entries", "seals", "add_seal", "forget_salts")),
            (roots, ("append",)),
            (os, ("fsync",)),
        ),
        {**_ENGINE, (audit_check, "_ENTRIES"): 5},
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
}
