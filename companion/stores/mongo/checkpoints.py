"""Checkpoints in MongoDB, beside the history that they lead into: the collection `mqtt_checkpoints`.

A document has `_id` (the name), `fence` and, once one was saved, `position`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from companion.core.errors import Fenced
from companion.stores.mongo.client import MongoClient

COLLECTION: Final = "mqtt_checkpoints"


class MongoCheckpoints:
    """The port `Checkpoints`."""

    def __init__(self, client: MongoClient, collection: str = COLLECTION) -> None:
        self._client = client
        self._checkpoints = client.database[collection]

    async def load(self, name: str) -> str | None:
        """Return the position; None when nothing was saved."""
        found = await self._client.call(lambda: self._checkpoints.find_one({"_id": name}))
        return None if found is None else found.get("position")

    async def claim(self, name: str, fence: int) -> str | None:
        """Return the position, and refuse lower fences from now on."""
        return (await self._write(name, fence, {})).get("position")

    async def save(self, name: str, position: str, fence: int) -> None:
        """Store the position, unless a higher fence has been here."""
        await self._write(name, fence, {"position": position})

    async def _write(self, name: str, fence: int, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        async def write() -> Mapping[str, Any] | None:
            # Where a higher fence stands, nothing is found, and the insert that follows from that meets the one that stands there.
            return await self._checkpoints.find_one_and_update(
                {"_id": name, "fence": {"$lte": fence}},
                {"$set": {"fence": fence, **fields}},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )

        try:
            return await self._client.call(write) or {}
        except DuplicateKeyError:
            # Two that insert at once meet as well; the second try finds the document.
            try:
                return await self._client.call(write) or {}
            except DuplicateKeyError:
                raise Fenced(f"checkpoint {name}: fence {fence} is not the newest") from None
