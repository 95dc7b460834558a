"""Who is connected, and the broker's events, in MongoDB: the collections `mqtt_presence` and `mqtt_events`.

Presence moves first, from revision to revision, so that of two processes that change one record at once the second looks again;
then the events are noted. A process that dies between the two has not answered: the broker sends again, presence has nothing to
learn, and the events are noted then. They bear their ids as `_id`, so one that comes again is known.

It lies in MongoDB and not in Redis because 2xx promises that nothing is lost, the hooks can do without Redis, and the cleaner and
the change stream, by which events are counted, are there.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from pymongo import InsertOne, UpdateOne
from pymongo.errors import BulkWriteError

from companion.core.broker_events import MEMBERSHIP, BrokerEvent, EventKind
from companion.core.errors import Transient
from companion.core.presence import Present, merged
from companion.stores.mongo.client import NAME, MongoClient

COLLECTION: Final = "mqtt_presence"
EVENTS: Final = "mqtt_events"
_DUPLICATE: Final = 11000
_SECONDS: Final = 10.0
_PATIENCE: Final = 20.0
_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.2
_FIELDS: Final = tuple(column.name for column in fields(Present) if column.name != "client_id")
_EVENT: Final = ("at", "client_id", "username", "principal", "reason")


def event_of(document: Mapping[str, Any]) -> BrokerEvent:
    """Return the event that a document holds, with what is counted of it."""
    values = {name: document[name] for name in _EVENT}
    return BrokerEvent(id=document["_id"], kind=EventKind(document["kind"]), **values)


class MongoPresence:
    """The port `Presence`."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._presence = client.database[COLLECTION]
        self._events = client.database[EVENTS]
        self._moving = asyncio.Lock()

    async def take(self, events: Sequence[BrokerEvent]) -> Sequence[str]:
        """Take events durably; return the ids of those that are new."""
        if not events:
            return []
        waiting: dict[str, list[BrokerEvent]] = {}
        for event in events:
            if event.kind in MEMBERSHIP:
                waiting.setdefault(event.client_id, []).append(event)
        # Those of one process wait for each other, so that only processes meet at one record.
        async with self._moving:
            deadline, pause = time.monotonic() + _PATIENCE, _PAUSE
            while waiting:
                waiting = await self._client.call(lambda: self._merge(waiting), _SECONDS)  # noqa: B023 - awaited within the round
                if waiting:
                    if time.monotonic() > deadline:
                        raise Transient(f"{NAME}: presence changes too fast")
                    await asyncio.sleep(pause * random.random())  # noqa: S311 - spreads attempts, protects nothing
                    pause = min(pause * 2, _LONGEST_PAUSE)
        return await self._client.call(lambda: self._note(events), _SECONDS)

    async def _merge(self, waiting: Mapping[str, Sequence[BrokerEvent]]) -> dict[str, list[BrokerEvent]]:
        """Move the records; return what has to be tried again, because somebody else moved its record."""
        found = {
            one["_id"]: _present(one) for one in await self._presence.find({"_id": {"$in": list(waiting)}}).to_list()
        }
        writes: list[InsertOne[dict[str, Any]] | UpdateOne] = []
        moved: list[str] = []
        for client_id, events in waiting.items():
            before = after = found.get(client_id)
            for event in events:
                after = merged(after, event) or after
            if after is None or after is before:
                continue
            document = _document(after)
            if before is None:
                writes.append(InsertOne({"_id": client_id} | document))
            else:
                writes.append(UpdateOne({"_id": client_id, "revision": before.revision}, {"$set": document}))
            moved.append(client_id)
        if not writes:
            return {}
        try:
            result = await self._presence.bulk_write(writes, ordered=False)
        except BulkWriteError as problem:
            errors = (problem.details or {}).get("writeErrors", ())
            if not errors or any(error.get("code") != _DUPLICATE for error in errors):
                raise
        else:
            if result.matched_count + result.inserted_count == len(writes):
                return {}
        # Which of them met somebody else is not told one by one; those that did not find their record moved.
        return {client_id: list(waiting[client_id]) for client_id in moved}

    async def _note(self, events: Sequence[BrokerEvent]) -> Sequence[str]:
        taken_at = int(time.time() * 1000)
        documents = {
            event.id: {"_id": event.id, "kind": event.kind.value, "taken_at": taken_at}
            | {name: getattr(event, name) for name in _EVENT}
            for event in events
        }
        known: set[str] = set()
        try:
            await self._events.insert_many(list(documents.values()), ordered=False)
        except BulkWriteError as problem:
            errors = (problem.details or {}).get("writeErrors", ())
            if not errors or any(error.get("code") != _DUPLICATE for error in errors):
                raise
            ids = list(documents)
            known = {ids[error["index"]] for error in errors}
        return [one for one in documents if one not in known]

    async def list(
        self,
        *,
        principal: str | None = None,
        client_id: str | None = None,
        online: bool | None = None,
        after: str = "",
        limit: int = 100,
    ) -> Sequence[Present]:
        """Return up to `limit` in the order of their client ids, behind `after`."""
        query: dict[str, Any] = {"_id": {"$gt": after}}
        if client_id is not None:
            query = {"$and": [query, {"_id": client_id}]}
        if principal is not None:
            query["principal"] = principal
        if online is not None:
            query["online"] = online
        return await self._find(query, limit)

    async def untold(self, limit: int) -> Sequence[Present]:
        """Return up to `limit` whose revision the presence topic does not show yet."""
        return await self._find({"told": False}, limit)

    async def told(self, shown: Sequence[Present]) -> None:
        """Note that the presence topic shows these; those that have changed since stay untold."""
        writes = [
            UpdateOne({"_id": one.client_id, "revision": one.revision}, {"$set": {"told": True}}) for one in shown
        ]
        if writes:
            await self._client.call(lambda: self._presence.bulk_write(writes, ordered=False), _SECONDS)

    async def prune(self, before: int, through: int | None, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` events that were taken before `before` (Unix milliseconds); return how many.

        They are counted by the change stream, which does not need them.
        """
        del through
        due = {"taken_at": {"$lt": before}}

        async def remove() -> int:
            if dry:
                return int(await self._events.count_documents(due, limit=limit))
            old = await self._events.find(due, {"_id": 1}).sort("taken_at", 1).limit(limit).to_list()
            result = await self._events.delete_many({"_id": {"$in": [one["_id"] for one in old]}})
            return int(result.deleted_count)

        return await self._client.call(remove, _SECONDS) if limit > 0 else 0

    async def _find(self, query: Mapping[str, Any], limit: int) -> Sequence[Present]:
        found = await self._client.call(
            lambda: self._presence.find(query).sort("_id", 1).limit(limit).to_list(), _SECONDS
        )
        return [_present(one) for one in found]


def _document(one: Present) -> dict[str, Any]:
    return {name: getattr(one, name) for name in _FIELDS} | {"online": one.online, "changed_at": one.changed_at}


def _present(document: Mapping[str, Any]) -> Present:
    return Present(document["_id"], **{name: document[name] for name in _FIELDS})
