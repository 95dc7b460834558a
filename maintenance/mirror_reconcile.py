"""Reconciliation of the mirror: what it holds is compared with the store range by range, and made good where it differs.

An event that never came leaves a copy wrong for ever; nothing but a comparison finds it. What is found is counted as drift, which
should be none: much of it means that events are lost somewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Final

import structlog

from companion.core.errors import Invalid, Transient
from companion.core.ports import Watcher
from companion.core.runs import Progress
from companion.job_settings import JobSettings
from companion.settings import Settings
from maintenance.job import Work, lacking

log = structlog.get_logger("maintenance.mirror_reconcile")

_BATCH: Final = 1000
_REBUILD_SECONDS: Final = 900.0
_LOOK_SECONDS: Final = 0.2
_ASKED: Final = "asked"
_END: Final = "end"
_STORES: Final = "MongoDB and Redis (store=production)"
_COLLECTIONS: Final = "collections to mirror (mirror_collections)"


class MirrorReconcile:
    """Compares every mirrored collection, and repairs it. Its position is the collection and where in it the next range begins."""

    name = "mirror-reconcile"
    purpose = "compares the mirror in Redis with MongoDB and makes good what differs"
    parameters: Mapping[str, str] = MappingProxyType({"rebuild": "true: copy everything anew before comparing"})
    schedule = JobSettings(every=600, jitter=30)
    lease_seconds = 60.0
    resumes = True

    def lacks(self, settings: Settings, *, dry: bool) -> str | None:  # noqa: ARG002 - as `Particular` says
        """Return what there is no mirror without."""
        if settings.store != "production":
            return _STORES
        return None if settings.mirror_collections else _COLLECTIONS

    async def batches(self, work: Work) -> AsyncIterator[Progress]:
        """Compare range by range; dry, nothing is repaired and the same is counted."""
        watcher = work.store.watcher
        rebuild = _flag(work.run.parameters.get("rebuild", False))
        if watcher is None:
            raise lacking(self.name, self.lacks(work.settings, dry=work.run.dry) or _COLLECTIONS)
        progress = work.run.progress
        if rebuild and not work.run.dry and (not progress.position or progress.position.startswith(f"{_ASKED} ")):
            async for one in _rebuilt(watcher, progress):
                yield one
                progress = one
        counts, done = Counter(progress.counts), progress.done
        first, _, after = progress.position.partition(" ")
        collections = list(watcher.collections) if first != _END else []
        for collection in collections[collections.index(first) if first in collections else 0 :]:
            if collection != first:
                after = ""
            through: str | None = after
            while through is not None:
                found = await watcher.compare(collection, through, _BATCH, repair=not work.run.dry)
                if found.silent:
                    log.warning("a collection is not compared: it is being copied", collection=collection)
                    counts["skipped"] += 1
                done += found.checked
                for kind, count in found.drift.items():
                    counts[f"{collection} {kind.value}"] += count
                    if not work.run.dry:
                        work.metrics.mirror.drift.labels(collection, kind.value).inc(count)
                through = found.through
                position = _behind(collections, collection) if through is None else f"{collection} {through}"
                yield Progress(done, None, dict(counts), position)
            _judge(collection, counts, work.settings.mirror_alarm)


def _behind(collections: list[str], collection: str) -> str:
    """Return the position at the beginning of the next collection, or at the end of all."""
    number = collections.index(collection) + 1
    return f"{collections[number]} " if number < len(collections) else f"{_END} "


def _judge(collection: str, counts: Mapping[str, int], alarm: int) -> None:
    drift = {name.split()[1]: count for name, count in counts.items() if name.startswith(f"{collection} ")}
    if sum(drift.values()) >= alarm:
        log.error("the mirror was far from what it mirrors: events are lost", collection=collection, **drift)
    elif drift:
        log.warning("the mirror was not what it mirrors", collection=collection, **drift)


async def _rebuilt(watcher: Watcher, progress: Progress) -> AsyncIterator[Progress]:
    """Ask for everything anew, and wait until it is there; a later life waits for what an earlier one has asked for."""
    asked = progress.position.partition(" ")[2] or await watcher.ask_for_rebuild()
    deadline = time.monotonic() + _REBUILD_SECONDS
    while True:
        yield Progress(progress.done, None, progress.counts, f"{_ASKED} {asked}")
        if await watcher.rebuilt(asked):
            break
        if time.monotonic() > deadline:
            raise Transient("the mirror was not copied anew in time: does a process with the role maintenance keep it?")
        await asyncio.sleep(_LOOK_SECONDS)
    yield Progress(progress.done, None, progress.counts, "compare ")


def _flag(value: object) -> bool:
    if value in (True, False, "true", "false"):
        return value in (True, "true")
    raise Invalid("parameters.rebuild", value, "true or false")
