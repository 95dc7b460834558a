"""Collections of MongoDB, for jobs that go through them.

They are read in the order of `_id`, whose index every collection has. An ObjectId begins with the second in which it was made, and
nothing is due before it was made: so of ids that are ObjectIds only those up to the limit of age are looked at. (What was
brought in with older dates is due when its id is as old.)

A removal or a replacement is one transaction with the fence of its job (the collection `mqtt_fences`), so that whoever was paused
past its lease writes nothing any more.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from bson import ObjectId, json_util
from bson.errors import BSONError
from pymongo import ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from companion.core.errors import Fenced, Invalid
from companion.core.model import Document
from companion.core.ports import Batch, Lease, Removed, Replaced, Replacement, Selection
from companion.stores.mongo.client import MongoClient

T = TypeVar("T")

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
        fields = None if lines else {"_id": 1}
        found = await self._page(collection, [_due(selection)], after, limit, fields=fields)
        return (
            _batch([one["_id"] for one in found], b"".join(map(_line_of, found)) if lines else b"") if found else None
        )

    async def due_batches(
        self, collection: str, selection: Selection, after: str, limit: int, batches: int, *, lines: bool = True
    ) -> Sequence[Batch]:
        """Return one: next to what it takes to read them, asking is nothing."""
        del batches
        found = await self.due(collection, selection, after, limit, lines=lines)
        return [] if found is None else [found]

    async def matching(
        self, collection: str, field: str, values: Sequence[str], *, hold: Document, after: str, limit: int
    ) -> Batch | None:
        """Return up to `limit` with one of these values, in the order of their ids, behind `after`.

        With an index on the field and `_id` nothing else is looked at.
        """
        wanted = [*values, *(ObjectId(one) for one in values if ObjectId.is_valid(one))]
        conditions: list[Mapping[str, Any]] = [{field: {"$in": wanted}}]
        if hold:
            conditions.append({"$nor": [hold]})
        found = await self._page(collection, conditions, after, limit)
        return _batch([one["_id"] for one in found], b"".join(map(_line_of, found))) if found else None

    async def _page(
        self,
        collection: str,
        conditions: Sequence[Mapping[str, Any]],
        after: str,
        limit: int,
        *,
        fields: Mapping[str, int] | None = None,
    ) -> Sequence[Mapping[str, Any]]:
        collected = self._named(collection)

        async def find(most: int, *more: Mapping[str, Any]) -> list[Mapping[str, Any]]:
            query = {"$and": [*conditions, *more]}
            return await self._client.call(
                lambda: collected.find(query, fields).sort("_id", 1).limit(most).to_list(), _SECONDS
            )

        if not after:
            return await find(limit)
        last = _id_of(after)
        found = await find(limit, {"_id": {"$gt": last}})
        # `$gt` finds ids of the same type only; those of the types behind it follow.
        if len(found) < limit and (kinds := _types_behind(last)):
            found += await find(limit - len(found), {"_id": {"$type": kinds}})
        return found

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

        return await self._fenced(lease, remove)

    async def remove_as_read(self, collection: str, selection: Selection, batch: Batch, lease: Lease) -> Removed | None:
        """Return None: MongoDB does not tell what was changed since."""
        del collection, selection, batch, lease
        return None

    async def replace(self, collection: str, replacements: Sequence[Replacement], lease: Lease) -> Replaced:
        """Replace those that are still what they were, in one transaction with the fence; only what differs is written."""
        collected = self._named(collection)
        wanted = {b"%b\n" % one.was: (_document_of(one.was)["_id"], _document_of(one.line)) for one in replacements}
        for identity, document in wanted.values():
            if _text_of(document["_id"]) != _text_of(identity):
                raise Invalid("line", _text_of(document["_id"]), f"a document whose _id is {_text_of(identity)}")

        async def replace(session: Any) -> Replaced:  # noqa: ANN401 - the driver's session
            ids = [identity for identity, _ in wanted.values()]
            now = await collected.find({"_id": {"$in": ids}}, session=session).to_list()
            same = [(one, wanted[line][1]) for one in now if (line := _line_of(one)) in wanted]
            writes = [write for one, new in same if (write := _write(one, new)) is not None]
            if writes:
                await collected.bulk_write(writes, ordered=False, session=session)
            return Replaced(len(writes), len(now) - len(same))

        return await self._fenced(lease, replace)

    async def _fenced(self, lease: Lease, work: Callable[[Any], Awaitable[T]]) -> T:
        """Do some writes in one transaction with the fence."""

        async def under_fence(session: Any) -> T:  # noqa: ANN401 - the driver's session
            await self._fences.update_one(
                {"_id": lease.name, "token": {"$lte": lease.token}},
                {"$set": {"token": lease.token}},
                upsert=True,
                session=session,
            )
            return await work(session)

        async def in_one() -> T:
            async with self._client.driver.start_session() as session:
                return await session.with_transaction(under_fence)

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


_TYPES: Final = ("number", "string", "object", "binData", "objectId", "bool", "date", "timestamp")
"""The types of ids, in MongoDB's order."""


def _types_behind(value: object) -> Sequence[str]:
    """Return the types of ids that come behind this one; none where its own is unusual."""
    kinds = {"string": str, "objectId": ObjectId, "number": int | float}
    own = next((name for name, kind in kinds.items() if isinstance(value, kind)), _TYPES[-1])
    return _TYPES[_TYPES.index(own) + 1 :]


def _write(now: Mapping[str, Any], new: Mapping[str, Any]) -> UpdateOne | ReplaceOne[dict[str, Any]] | None:
    """Return what makes one document of the other; None when they are the same."""
    # As text: what is not a number is not even equal to itself.
    same = {name for name, value in new.items() if name in now and _text_of(now[name]) == _text_of(value)}
    changed = {name: value for name, value in new.items() if name not in same}
    gone = {name: "" for name in now if name not in new}
    if any("." in name or name.startswith("$") for name in (*changed, *gone)):
        return ReplaceOne({"_id": now["_id"]}, dict(new))
    update = {operator: fields for operator, fields in (("$set", changed), ("$unset", gone)) if fields}
    return UpdateOne({"_id": now["_id"]}, update) if update else None


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
