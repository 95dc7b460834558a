"""Audit records in MongoDB; their `_id` grows as they are appended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from pymongo.errors import BulkWriteError

from companion.core.model import Audit
from companion.stores.mongo.client import MongoClient

COLLECTION: Final = "mqtt_audits"
_BATCH_SECONDS: Final = 10.0
_DUPLICATE: Final = 11000
_FIELDS: Final = tuple(column.name for column in fields(Audit))


def audit_of(document: Mapping[str, Any]) -> Audit:
    """Return the record that a document holds."""
    return Audit(**{name: document[name] for name in _FIELDS})


class MongoAudits:
    """The port `Audits`."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._audits = client.database[COLLECTION]

    async def append(self, records: Sequence[Audit]) -> None:
        """Store them, in order."""
        documents = [{name: getattr(record, name) for name in _FIELDS} for record in records]
        if documents:
            await self._client.call(lambda: self._insert(documents), _BATCH_SECONDS)

    async def _insert(self, documents: Sequence[dict[str, Any]]) -> None:
        try:
            await self._audits.insert_many(documents, ordered=False)
        except BulkWriteError as problem:
            # The driver writes once more, under the same `_id`, what it got no answer to: what is there already is stored.
            wrong = [error.get("code") for error in (problem.details or {}).get("writeErrors", ())]
            if not wrong or set(wrong) != {_DUPLICATE}:
                raise

    async def latest(self, limit: int) -> Sequence[Audit]:
        """Return the newest records, newest first."""
        found = await self._client.call(
            lambda: (
                self._audits.find({}, dict.fromkeys(_FIELDS, 1) | {"_id": 0}).sort("_id", -1).limit(limit).to_list()
            ),
            _BATCH_SECONDS,
        )
        return [audit_of(one) for one in found]

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` records older than `before` (Unix milliseconds); return how many."""
        if limit <= 0:
            return 0

        async def remove() -> int:
            if dry:
                return int(await self._audits.count_documents({"at": {"$lt": before}}, limit=limit))
            old = await self._audits.find({"at": {"$lt": before}}, {"_id": 1}).sort("at", 1).limit(limit).to_list()
            result = await self._audits.delete_many({"_id": {"$in": [one["_id"] for one in old]}})
            return int(result.deleted_count)

        return await self._client.call(remove, _BATCH_SECONDS)

    async def trim(self, keep: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` of the oldest records beyond the newest `keep`; return how many."""

        async def remove() -> int:
            surplus = min(limit, await self._audits.estimated_document_count() - keep)
            if surplus <= 0 or dry:
                return max(0, surplus)
            old = await self._audits.find({}, {"_id": 1}).sort("_id", 1).limit(surplus).to_list()
            result = await self._audits.delete_many({"_id": {"$in": [one["_id"] for one in old]}})
            return int(result.deleted_count)

        return await self._client.call(remove, _BATCH_SECONDS)
