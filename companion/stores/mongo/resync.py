"""What changed while nobody could see it: found by the times that entities bear, when the history of changes was lost.

Every watched collection is read once for each of its time fields, in the order of an index on that field; fields without an index
are looked for together in one pass by `_id`. A document is told once, by the first field that says it changed. What was destroyed
meanwhile cannot be found: nothing of it is left.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import structlog
from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.cursor import AsyncCursor

from companion.core.model import Change, ChangeOp
from companion.stores.mongo.client import MongoClient
from companion.stores.mongo.events import id_of, json_of
from companion.stores.mongo.place import Catch
from companion.stores.mongo.raw import RAW, UNSOUND, decode, decode_as_far_as_possible
from companion.stores.mongo.stream import Scope

log = structlog.get_logger("companion.stores.mongo")

FIELDS: Final = ("updated_at", "created_at", "deleted_at", "restored_at")
_BY_ID: Final = "_id"
_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """A document that changed: the change, or, where it cannot be read, its key and why. `catch` is how far this comes."""

    catch: Catch
    change: Change | None
    namespace: str
    key: str
    problem: str = ""


class Resync:
    """Reads what changed since `catch.since`, on from where `catch` stands."""

    def __init__(self, client: MongoClient, scope: Scope, batch: int, catch: Catch) -> None:
        self._client = client
        self._scope = scope
        self._batch = batch
        self._catch = catch

    async def batches(self) -> AsyncIterator[Sequence[Found]]:
        """Yield what changed, a batch at a time.

        Raises `Transient` when MongoDB goes away; a new one goes on from the last.
        """
        since = dt.datetime.fromtimestamp(self._catch.since, dt.UTC)
        for db, collection in await self._collections():
            namespace = f"{db}.{collection}"
            if namespace < self._catch.namespace:
                continue
            indexed = await self._indexed(db, collection)
            passes = [*(name for name in FIELDS if name in indexed), _BY_ID]
            rest = [name for name in FIELDS if name not in indexed]
            begun = namespace == self._catch.namespace and self._catch.field in passes
            for number, name in enumerate(passes):
                if (name == _BY_ID and not rest) or (begun and number < passes.index(self._catch.field)):
                    continue
                query, sort = self._query(name, rest, since, resumed=begun and name == self._catch.field)
                if name == _BY_ID:
                    log.warning("a collection is read whole: it has no index on its times", collection=namespace)
                earlier = passes[:number]
                async for batch in self._read(db, collection, query, sort):
                    yield [
                        found
                        for raw in batch
                        if (
                            found := self._found(
                                raw, replace(self._catch, namespace=namespace, field=name), earlier, since
                            )
                        )
                        is not None
                    ]

    def _query(
        self, name: str, rest: Sequence[str], since: dt.datetime, *, resumed: bool
    ) -> tuple[Mapping[str, Any], list[tuple[str, int]]]:
        if name == _BY_ID:
            return {"$or": [{one: {"$gte": since}} for one in rest]}, [(_BY_ID, 1)]
        start = since
        if resumed and self._catch.value:
            # Once more those of the same moment; their event ids are the same.
            start = max(since, dt.datetime.fromtimestamp(self._catch.value / 1000, dt.UTC))
        return {name: {"$gte": start}}, [(name, 1)]

    async def _collections(self) -> Sequence[tuple[str, str]]:
        async def look() -> list[tuple[str, str]]:
            found = set(self._scope.collections)
            for db in self._scope.databases:
                listed = await (await self._client.driver[db].list_collections()).to_list()
                found |= {(db, one["name"]) for one in listed if one.get("type", "collection") == "collection"}
            return sorted(
                (one for one in found - self._scope.without if not one[1].startswith("system.")), key=".".join
            )

        return await self._client.call(look, _SECONDS)

    async def _indexed(self, db: str, collection: str) -> frozenset[str]:
        async def look() -> frozenset[str]:
            indexes = await (await self._client.driver[db][collection].list_indexes()).to_list()
            # One over some of the documents would not show all of them.
            whole = [one for one in indexes if not one.get("sparse") and "partialFilterExpression" not in one]
            return frozenset(next(iter(one["key"])) for one in whole)

        return await self._client.call(look, _SECONDS)

    async def _read(
        self, db: str, collection: str, query: Mapping[str, Any], sort: list[tuple[str, int]]
    ) -> AsyncIterator[Sequence[RawBSONDocument]]:
        found = self._client.driver[db].get_collection(collection)
        raw = cast("AsyncCollection[Any]", found).with_options(RAW)
        cursor: AsyncCursor[RawBSONDocument] = raw.find(query).sort(sort).batch_size(self._batch)
        try:
            while batch := await self._client.call(lambda: cursor.to_list(self._batch), _SECONDS):
                yield batch
        finally:
            await cursor.close()

    @staticmethod
    def _found(raw: RawBSONDocument, catch: Catch, earlier: Sequence[str], since: dt.datetime) -> Found | None:
        try:
            document = decode(raw)
        except UNSOUND as problem:
            key = str(decode_as_far_as_possible(raw).get("_id", ""))
            return Found(catch, None, catch.namespace, key, f"it cannot be decoded ({type(problem).__name__})")
        if any(_since(document, one, since) for one in earlier):
            return None
        value = document.get(catch.field)
        if isinstance(value, dt.datetime):
            catch = replace(catch, value=int(value.timestamp() * 1000))
        change = change_of_document(catch.namespace, document, since)
        return Found(catch, change, catch.namespace, change.id)


def change_of_document(namespace: str, document: Mapping[str, Any], since: dt.datetime) -> Change:
    """Return what must have happened to the document since then: its last state, as the strongest change that its times tell of."""
    if _since(document, "deleted_at", since):
        op = ChangeOp.DELETE
    elif _since(document, "created_at", since):
        op = ChangeOp.CREATE
    elif _since(document, "restored_at", since):
        op = ChangeOp.RESTORE
    else:
        op = ChangeOp.UPDATE
    times = [value for name in FIELDS if isinstance(value := document.get(name), dt.datetime)]
    at = int(max(times).timestamp() * 1000) if times else 0
    db, _, collection = namespace.partition(".")
    entity = id_of(document["_id"])
    digest = hashlib.blake2b("\0".join((db, collection, entity, op.value, str(at))).encode(), digest_size=16)
    return Change("r-" + digest.hexdigest(), op, db, collection, entity, at, after=json_of(document))


def _since(document: Mapping[str, Any], name: str, since: dt.datetime) -> bool:
    value = document.get(name)
    return isinstance(value, dt.datetime) and value >= since
