"""Whoever changes entities in MongoDB itself, from where the publisher takes them by a change stream."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

from pymongo import AsyncMongoClient, errors
from pymongo.write_concern import WriteConcern

from tests.faults.workload import COLLECTION, DB, Planned

_PAUSE: Final = 0.05
_LONG_AGO: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Writer:
    """Writes changes one by one. A change is in `taken` once MongoDB has acknowledged it, and not before.

    Each write can be repeated: the second time it changes nothing. There is no timeout, so that none is repeated while the first
    attempt may still be under way in a server that is frozen.
    """

    batch = 10

    def __init__(self, client: AsyncMongoClient[dict[str, Any]]) -> None:
        self._entities = client[DB].get_collection(COLLECTION, write_concern=WriteConcern("majority", j=True))
        self.taken: list[Planned] = []
        self.repeated = 0

    async def post(self, batch: Sequence[Planned]) -> None:
        """Write changes one after the other, each again and again until it is acknowledged."""
        for change in batch:
            while not await self._acknowledged(change):
                self.repeated += 1
                await asyncio.sleep(_PAUSE)
            self.taken.append(change)

    async def _acknowledged(self, change: Planned) -> bool:
        try:
            await self._write(change)
        except errors.ConnectionFailure:
            return False
        return True

    async def _write(self, change: Planned) -> None:
        key = {"_id": change.entity}
        match change.op:
            case "create":
                try:
                    await self._entities.insert_one({**key, **change.document})
                except errors.DuplicateKeyError:
                    found = await self._entities.find_one(key)
                    # Our own attempt, whose acknowledgement was lost.
                    assert found is not None, change
                    assert found["number"] == change.number, found
            case "destroy":
                await self._entities.delete_one(key)
            case "delete":
                # Not the time of now: a second attempt would change it, and be an event of its own.
                await self._update(change, {"deleted_at": _LONG_AGO + dt.timedelta(seconds=change.number)})
            case "restore" if change.number % 2:
                await self._update(change, {"deleted_at": None})
            case "restore":
                await self._update(change, {}, {"$unset": {"deleted_at": ""}})
            case _:
                await self._update(change, {})

    async def _update(self, change: Planned, fields: dict[str, Any], more: dict[str, Any] | None = None) -> None:
        update = {"$set": {"number": change.number, **fields}, **(more or {})}
        await self._entities.update_one({"_id": change.entity}, update)
