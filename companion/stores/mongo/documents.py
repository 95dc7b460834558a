"""Collections of MongoDB, for jobs that go through them.

They are read in the order of `_id`, whose index every collection has. An ObjectId begins with the second in which it was made, and
nothing is due before it was made: so of ids that are ObjectIds only those up to the limit of age are looked at. (What was
brought in with older dates is due when its id is as old.)

A removal is one transaction with the fence of its job (the collection `mqtt_fences`), so that whoever was paused past its lease
removes nothing any more.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bson import ObjectId, json_util
from bson.errors import BSONError
from pymongo.errors import BulkWriteError, DuplicateKeyError

from companion.core.errors import Fenced, Invalid
from companion.core.ports import Batch, Lease, Removed, Selection
from companion.stores.mongo.client import MongoClient

FENCES: Final = "mqtt_fences"
_SECONDS: Final = 30.0
_COUNT_SECONDS: Final = 600.0
"""MongoDB looks at every document that is counted; there may be millions."""

_DUPLICATE: Final = 11000
_OPTIONS: Final = json_util.CANONICAL_JSON_OPTIONS
_OWN_DATABASES: Final = frozenset({"admin", "config", "local"})


class MongoDocuments:
    """The port `Documents`. A name without a database is one of ours."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._fences = client.database[FENCES]

    async def check(self, collection: str, selection: Selection) -> None:
        """Raise `Invalid` for a name that no collection has, or a query that MongoDB does not understand."""
        self._named(collection)
        for what, query in (("query", selection.query), ("hold", selection.hold)):
            if any(name.startswith("$where") for name in query):
                raise Invalid(what, query, "a query without code")

    async def count(self, collection: str) -> int:
        """Return about how many there are."""
        return await self._client.call(lambda: self._named(collection).estimated_document_count(), _SECONDS)

    async def count_due(self, collection: str, selection: Selection) -> int:
        """Return how many are due."""
        return await self._client.call(lambda: self._named(collection).count_documents(_due(selection)), _COUNT_SECONDS)

    async def due(
        self, collection: str, selection: Selection, after: str, limit: int, *, lines: bool = True
    ) -> Batch | None:
        """Return up to `limit` that are due, in the order of their ids, behind `after`."""
        query = _due(selection)
        if after:
            query = {"$and": [query, {"_id": {"$gt": _id_of(after)}}]}
        found = await self._client.call(
            lambda: (
                self._named(collection).find(query, None if lines else {"_id": 1}).sort("_id", 1).limit(limit).to_list()
            ),
            _SECONDS,
        )
        return (
            _batch([one["_id"] for one in found], b"".join(map(_line_of, found)) if lines else b"") if found else None
        )

    def read(self, collection: str, lines: bytes) -> Batch:
        """Return the documents of these lines with their ids."""
        self._named(collection)
        return _batch([_document_of(line)["_id"] for line in lines.splitlines()], lines)

    async def remove(
        self, collection: str, selection: Selection, batch: Batch, lease: Lease, *, unchanged: bool
    ) -> Removed:
        """Remove those that are still due and, if `unchanged`, still what they were, in one transaction with the fence."""
        collected = self._named(collection)
        was = set(batch.lines.splitlines(keepends=True))

        async def remove(session: Any) -> Removed:  # noqa: ANN401 - the driver's session
            await self._fences.update_one(
                {"_id": lease.name, "token": {"$lte": lease.token}},
                {"$set": {"token": lease.token}},
                upsert=True,
                session=session,
            )
            ids, changed = batch.ids, 0
            if unchanged:
                now = await collected.find({"_id": {"$in": ids}}, session=session).to_list()
                ids = [one["_id"] for one in now if _line_of(one) in was]
                changed = len(now) - len(ids)
            # What is as it was when it was due is still due.
            these: dict[str, Any] = {"_id": {"$in": ids}}
            which = these if unchanged else {"$and": [_due(selection), these]}
            removed = await collected.delete_many(which, session=session)
            return Removed(int(removed.deleted_count), changed)

        async def in_one() -> Removed:
            async with self._client.driver.start_session() as session:
                return await session.with_transaction(remove)

        try:
            return await self._client.call(in_one, _SECONDS)
        except DuplicateKeyError:
            raise Fenced(f"{lease.name}: fence {lease.token} is not the newest") from None

    async def restore(self, collection: str, lines: Sequence[bytes]) -> int:
        """Put back those whose ids are free."""
        documents = [_document_of(line) for line in lines]
        if not documents:
            return 0

        async def insert() -> int:
            try:
                return len((await self._named(collection).insert_many(documents, ordered=False)).inserted_ids)
            except BulkWriteError as problem:
                details = problem.details or {}
                if any(error.get("code") != _DUPLICATE for error in details.get("writeErrors", ())):
                    raise
                return int(details.get("nInserted", 0))

        return await self._client.call(insert, _SECONDS)

    def _named(self, name: str) -> Any:  # noqa: ANN401 - the driver's type has a parameter that says nothing here
        db, dot, collection = name.partition(".")
        if not dot:
            db, collection = self._client.database.name, db
        if not db or not collection or db in _OWN_DATABASES or "$" in name:
            raise Invalid("collection", name, "database.collection, of a database that is no part of MongoDB's own")
        return self._client.driver[db][collection]


def _due(selection: Selection) -> dict[str, Any]:
    moment = dt.datetime.fromtimestamp(selection.before / 1000, dt.UTC)
    # Times are dates, or numbers of milliseconds or of seconds; as seconds, what is due lies below any millisecond of this age.
    times = [
        {selection.time: {"$lt": moment, "$type": "date"}},
        {selection.time: {"$lt": selection.before, "$gte": _MILLISECONDS_FROM, "$type": "number"}},
        {selection.time: {"$lt": selection.before / 1000, "$gte": 0, "$type": "number"}},
    ]
    newest = ObjectId.from_datetime(moment + dt.timedelta(seconds=_YOUNGER_SECONDS))
    conditions: list[Mapping[str, Any]] = [
        {"$or": times},
        {"$or": [{"_id": {"$lt": newest, "$type": "objectId"}}, {"_id": {"$not": {"$type": "objectId"}}}]},
    ]
    if selection.query:
        conditions.append(selection.query)
    if selection.hold:
        conditions.append({"$nor": [selection.hold]})
    return {"$and": conditions}


_MILLISECONDS_FROM: Final = 100_000_000_000
_YOUNGER_SECONDS = 86_400
"""By how much an id may be younger than what it is the id of: clocks differ."""


def _batch(ids: Sequence[Any], lines: bytes) -> Batch:
    return Batch(len(ids), _text_of(ids[0]), _text_of(ids[-1]), lines, ids)


def _line_of(document: Mapping[str, Any]) -> bytes:
    return json_util.dumps(document, json_options=_OPTIONS, separators=(",", ":")).encode() + b"\n"


def _text_of(value: object) -> str:
    return json_util.dumps(value, json_options=_OPTIONS)


def _id_of(text: str) -> Any:  # noqa: ANN401 - any BSON value
    return json_util.loads(text, json_options=_OPTIONS)


def _document_of(line: bytes) -> dict[str, Any]:
    try:
        document = json_util.loads(line.decode(), json_options=_OPTIONS)
    except (ValueError, TypeError, BSONError, json.JSONDecodeError):
        document = None
    if not isinstance(document, dict) or "_id" not in document:
        raise Invalid("line", line[:80], "a document in MongoDB's extended JSON")
    return document
