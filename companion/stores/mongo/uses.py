"""When credentials were last used, in MongoDB: apart from the accounts, whose changes empty caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pymongo import UpdateOne

from companion.stores.mongo.client import MongoClient

COLLECTION: Final = "mqtt_uses"
_BATCH_SECONDS: Final = 10.0


class MongoUses:
    """The port `Uses`."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._uses = client.database[COLLECTION]

    async def note(self, uses: Mapping[str, int]) -> None:
        """Keep when these were used; the latest stays."""
        if not uses:
            return
        writes = [UpdateOne({"_id": name}, {"$max": {"at": at}}, upsert=True) for name, at in uses.items()]
        await self._client.call(lambda: self._uses.bulk_write(writes, ordered=False), _BATCH_SECONDS)

    async def latest(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return when these were last used."""
        found = await self._client.call(
            lambda: self._uses.find({"_id": {"$in": list(names)}}).to_list(), _BATCH_SECONDS
        )
        return {one["_id"]: int(one["at"]) for one in found}

    async def forget(self, names: Sequence[str]) -> None:
        """Forget these; no error for what is not known."""
        await self._client.call(lambda: self._uses.delete_many({"_id": {"$in": list(names)}}), _BATCH_SECONDS)
