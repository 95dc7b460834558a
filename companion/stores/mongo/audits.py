"""Audit records in MongoDB, in their chains; their `_id` grows as they are appended. The seals are in `mqtt_audit_seals`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bson import ObjectId
from pymongo.errors import BulkWriteError, DuplicateKeyError

from companion.core.chain import Chain, Entry
from companion.core.model import Audit
from companion.core.ports.audits import REFUSING, ChainState
from companion.core.seals import Seal, Segment
from companion.stores.mongo.client import MongoClient

COLLECTION: Final = "mqtt_audits"
SEALS: Final = "mqtt_audit_seals"
_BATCH_SECONDS: Final = 10.0
_LONG_SECONDS: Final = 60.0
_DUPLICATE: Final = 11000
_FIELDS: Final = Audit._fields
_OF_CHAIN: Final = ("chain", "number", "salt", "marks", "before", "hash")
_PSEUDONYM: Final = r"^(anon-[a-z2-7]{26}(@anon\.invalid)?|ffffffff[0-9a-f]{16})$"


def audit_of(document: Mapping[str, Any]) -> Audit:
    """Return the record that a document holds; one of an earlier release does not say who decided."""
    return Audit(**{name: document[name] for name in _FIELDS if name != "source"}, source=document.get("source", ""))


class MongoAudits:
    """The port `Audits`."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._audits = client.database[COLLECTION]
        self._seals = client.database[SEALS]

    async def append(self, records: Sequence[Audit]) -> None:
        """Store them, in order, as a chain of their own."""
        await self.keep(Chain().seal(records))

    async def keep(self, entries: Sequence[Entry]) -> None:
        """Store the entries of a writer's chain, in order; those that are there already are not stored twice."""
        documents = [
            {"_id": ObjectId(one.id)}
            | {name: getattr(one.audit, name) for name in _FIELDS}
            | {name: getattr(one, name) for name in _OF_CHAIN}
            for one in entries
        ]
        if documents:
            await self._client.call(lambda: self._insert(documents), _BATCH_SECONDS)

    async def _insert(self, documents: Sequence[dict[str, Any]]) -> None:
        try:
            await self._audits.insert_many(documents, ordered=False)
        except BulkWriteError as problem:
            # What there was no answer to is written once more, under the same `_id`: what is there already is stored.
            wrong = [error.get("code") for error in (problem.details or {}).get("writeErrors", ())]
            if not wrong or set(wrong) != {_DUPLICATE}:
                raise

    async def latest(self, limit: int) -> Sequence[Audit]:
        """Return the newest records, newest first."""
        return await self._find({}, [("_id", -1)], limit)

    async def refused(self, since: int, limit: int) -> Sequence[Audit]:
        """Return up to `limit` records of `REFUSING` kinds that say deny, from `since` on, the newest first."""
        query = {"at": {"$gte": since}, "verdict": "deny", "kind": {"$in": list(REFUSING)}}
        return await self._find(query, [("at", -1), ("_id", -1)], limit)

    async def extent(self) -> tuple[int, int]:
        """Return about how many records there are, and the time of the oldest."""

        async def look() -> tuple[int, int]:
            oldest = await self._audits.find_one({}, {"at": 1}, sort=[("at", 1)])
            return await self._audits.estimated_document_count(), 0 if oldest is None else int(oldest["at"])

        return await self._client.call(look, _BATCH_SECONDS)

    async def chains(self, after: str, limit: int) -> Sequence[ChainState]:
        """Return up to `limit` chains whose names lie behind `after`, in the order of their names."""
        steps: list[Mapping[str, Any]] = [
            {"$match": {"chain": {"$gt": after}}},
            {
                "$group": {
                    "_id": "$chain",
                    "first": {"$min": "$number"},
                    "last": {"$max": "$number"},
                    "count": {"$sum": 1},
                }
            },
            {"$sort": {"_id": 1}},
            {"$limit": limit},
        ]

        async def look() -> list[dict[str, Any]]:
            return await (await self._audits.aggregate(steps)).to_list()

        found = await self._client.call(look, _LONG_SECONDS)
        return [ChainState(one["_id"], one["first"], one["last"], one["count"]) for one in found]

    async def entries(self, chain: str, after: int, limit: int) -> Sequence[Entry]:
        """Return up to `limit` entries of a chain behind this number, in order."""
        query = {"chain": chain, "number": {"$gt": after}}
        found = await self._client.call(
            lambda: self._audits.find(query).sort("number", 1).limit(limit).to_list(), _BATCH_SECONDS
        )
        return [
            Entry(id=str(one["_id"]), audit=audit_of(one), **{name: one[name] for name in _OF_CHAIN}) for one in found
        ]

    async def unchained(self, since: int) -> int:
        """Return how many records of this time or later are in no chain."""
        query = {"at": {"$gte": since}, "chain": {"$exists": False}}
        return int(await self._client.call(lambda: self._audits.count_documents(query), _LONG_SECONDS))

    async def forget_salts(self, limit: int) -> int:
        """Take the salts from up to `limit` records that were pseudonymised; return how many."""
        query = {"username": {"$regex": _PSEUDONYM}, "salt": {"$gt": ""}}

        async def forget() -> int:
            found = await self._audits.find(query, {"_id": 1}).limit(limit).to_list()
            ids = [one["_id"] for one in found]
            return int((await self._audits.update_many({"_id": {"$in": ids}}, {"$set": {"salt": ""}})).modified_count)

        return await self._client.call(forget, _LONG_SECONDS)

    async def seals(self, after: int, limit: int) -> Sequence[Seal]:
        """Return up to `limit` seals behind this number, in order."""
        found = await self._client.call(
            lambda: self._seals.find({"_id": {"$gt": after}}).sort("_id", 1).limit(limit).to_list(), _BATCH_SECONDS
        )
        return [_seal(one) for one in found]

    async def last_seal(self) -> Seal | None:
        """Return the newest seal."""
        found = await self._client.call(lambda: self._seals.find_one({}, sort=[("_id", -1)]), _BATCH_SECONDS)
        return None if found is None else _seal(found)

    async def add_seal(self, seal: Seal) -> bool:
        """Store a seal; False when there is one of its number."""
        document = {
            "_id": seal.number,
            "at": seal.at,
            "run": seal.run,
            "previous": seal.previous,
            "root": seal.root,
            "segments": [list(one) for one in seal.segments],
        }
        try:
            await self._client.call(lambda: self._seals.insert_one(document), _BATCH_SECONDS)
        except DuplicateKeyError:
            return False
        return True

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

    async def _find(self, query: Mapping[str, Any], order: Sequence[tuple[str, int]], limit: int) -> Sequence[Audit]:
        wanted = dict.fromkeys(_FIELDS, 1) | {"_id": 0}
        found = await self._client.call(
            lambda: self._audits.find(query, wanted).sort(list(order)).limit(limit).to_list(), _BATCH_SECONDS
        )
        return [audit_of(one) for one in found]


def _seal(document: Mapping[str, Any]) -> Seal:
    segments = tuple(Segment(*one) for one in document["segments"])
    return Seal(document["_id"], document["at"], document["run"], document["previous"], segments, document["root"])
