"""The record of a service on the production profile: Redis, MongoDB, and the log for what they do not keep.

When a change was acknowledged stands only in the service's log. That is written before the checkpoint moves, so that what a killed
service did not write down is published again.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pymongo import AsyncMongoClient
from redis import exceptions

from companion.stores.mongo.checkpoints import COLLECTION as CHECKPOINTS
from companion.stores.mongo.letters import COLLECTION as LETTERS
from companion.stores.mongo.source import MongoSource
from companion.stores.redis.keys import Keys
from publishers.inbox_source import CHECKPOINT
from tests.faults.books import Mark
from tests.faults.history import History
from tests.faults.ledger import Record
from tests.faults.workload import Planned
from tests.support.waiting import wait_until

_START_SECONDS: Final = 30.0
_ACKNOWLEDGED: Final = "change published"


class ProductionBooks:
    """The port `Books` over the servers of one run; `log` is the file of the service's log at level debug."""

    def __init__(
        self,
        *,
        redis: Any,
        keys: Keys,
        mongo: AsyncMongoClient[dict[str, Any]],
        history: History,
        database: str,
        log: Path,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._database = mongo[database]
        self._history = history
        self._log = log

    async def ready(self) -> None:
        """Return when the change stream has begun."""
        await wait_until(lambda: self._history.passed() is not None, _START_SECONDS, "the change stream has begun")

    async def settled(self) -> int | None:
        """Return how many changes are settled: of those from MongoDB, as far as the checkpoint."""
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                known, waiting = await pipe.zcard(self._keys.inbox_known).xlen(self._keys.inbox).execute()
        except (exceptions.ConnectionError, exceptions.TimeoutError):
            return None
        return int(known) - int(waiting) + (self._history.passed() or 0)

    async def marks(self) -> Sequence[Mark]:
        """Return how far inbox and change stream are done."""
        return (await self._inbox_mark(), await self._stream_mark())

    async def _inbox_mark(self) -> Mark:
        checkpoint = await self._redis.hget(self._keys.checkpoint(CHECKPOINT), "position")
        known = await self._redis.zrange(self._keys.inbox_known, 0, -1, withscores=True)
        waiting = {position for position, _ in await self._waiting()}
        settled = [int(position) for _, position in known if int(position) not in waiting]
        return Mark(int(checkpoint or 0), max(settled, default=0), min(waiting, default=None))

    async def _stream_mark(self) -> Mark:
        records = await self.records()
        settled: list[int] = [0]
        unsettled: list[int] = []
        for place, told in enumerate(self._history.told(), 1):
            (settled if told.event_id in records else unsettled).append(place)
        return Mark(self._history.passed() or 0, settled[-1], min(unsettled, default=None))

    async def _waiting(self) -> Sequence[tuple[int, Mapping[str, Any]]]:
        """Return position and change of what waits in the inbox."""
        entries = await self._redis.xrange(self._keys.inbox)
        return [(int(entry.partition(b"-")[0]), json.loads(fields[b"change"])) for entry, fields in entries]

    async def records(self) -> Mapping[str, Record]:
        """Return what is noted, by event id."""
        records = {event_id: Record(at, None) for event_id, at in _acknowledged(self._log.read_text(errors="replace"))}
        for member in await self._redis.zrange(self._keys.inbox_dead, 0, -1):
            letter = json.loads(member)
            records[json.loads(letter["change"])["event_id"]] = Record(None, letter["reason"])
        async for found in self._database[LETTERS].find({}):
            records[found["_id"]] = Record(None, found["reason"])
        return records

    async def named(self, written: Sequence[Planned]) -> Sequence[Planned]:
        """Return changes that were written to MongoDB with the event ids that they have got there."""
        return self._history.named(written)

    async def skip(self, count: int) -> None:
        """Remove changes from the inbox, and let the log say that they were published."""
        earlier: Counter[str] = Counter()
        later = []
        for position, change in await self._waiting():
            if earlier[change["id"]]:
                later.append((position, change["event_id"]))
            earlier[change["id"]] += 1
        skipped = later[-count:]
        assert await self._redis.xdel(self._keys.inbox, *(f"{position}-0" for position, _ in skipped)) == count
        now = int(time.time() * 1000)
        with self._log.open("a") as log:
            log.writelines(
                f"{json.dumps({'event': _ACKNOWLEDGED, 'event_id': one, 'at': now})}\n" for _, one in skipped
            )

    async def waiting_in_stream(self) -> int:
        """Return how many changes the checkpoint of the change stream has not passed."""
        return len(self._history.told()) - (self._history.passed() or 0)

    async def move_checkpoint(self, count: int) -> None:
        """Sabotage: let the checkpoint of the change stream pass so many changes that nobody has got."""
        target = self._history.told()[(self._history.passed() or 0) + count - 1]
        position = self._history.position_behind(target)
        moved = await self._database[CHECKPOINTS].update_one(
            {"_id": MongoSource.name}, {"$set": {"position": position}}
        )
        assert moved.modified_count == 1


def _acknowledged(log: str) -> Sequence[tuple[str, int]]:
    """Return event id and time (Unix milliseconds) of what a log says was acknowledged, the last time last."""
    found = []
    for line in log.splitlines():
        if _ACKNOWLEDGED in line:
            # A killed service leaves half a line, and the next one goes on behind it.
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                found.append((entry["event_id"], entry["at"]))
    return found
