"""Statistics in MongoDB, in the platform's schema: by default the collection `special.stats`.

A record has `type` (DAILY, MONTHLY, YEARLY), `owner`, `key`, `flag` where it has one, `year`, `month`, `day`, and `hours`, `days`
or `months`. Its `_id` is made of these, so that there is one of each without an index that would say so. The document `statistics`
of `mqtt_checkpoints` holds the number of the last flush and the positions that it reached; it is written in the same transaction.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bson import ObjectId
from pymongo import UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError
from pymongo.write_concern import WriteConcern

from companion.core.stats import Bucket, Calendar, Increments, Stat, buckets
from companion.stores.mongo.checkpoints import COLLECTION
from companion.stores.mongo.client import MongoClient

_STATE: Final = "statistics"
_VALUES: Final = {Calendar.DAILY: "hours", Calendar.MONTHLY: "days", Calendar.YEARLY: "months"}
_SECONDS: Final = 30.0


class MongoStats:
    """The records, and how far they reach."""

    def __init__(self, client: MongoClient, name: str) -> None:
        self._client = client
        database, _, collection = name.partition(".")
        concern = WriteConcern("majority", j=True)
        self._stats = client.driver[database].get_collection(collection, write_concern=concern)
        self._state = client.database[COLLECTION]

    async def reached(self) -> tuple[int, Mapping[str, str]]:
        """Return the number of the last flush and the position of every reader; 0 before the first."""
        found = await self._client.call(lambda: self._state.find_one({"_id": _STATE}))
        return (0, {}) if found is None else (found["flush"], dict(found["positions"]))

    async def add(self, number: int, positions: Mapping[str, str], added: Increments) -> bool:
        """Add in one transaction, and note the number and the positions there; False when this flush was made already."""
        writes = [write for bucket, values in buckets(added).items() for write in _writes(bucket, values)]

        async def flush(session: AsyncClientSession | None = None) -> None:
            # Where this number or a higher one stands, nothing is found, and the insert meets the one that stands there.
            await self._state.update_one(
                {"_id": _STATE, "flush": {"$lt": number}},
                {"$set": {"flush": number, "positions": list(map(list, positions.items()))}},
                upsert=True,
                session=session,
            )
            if writes:
                await self._stats.bulk_write(writes, session=session)

        async def transaction() -> None:
            if not writes:
                # One document needs no transaction.
                await flush()
                return
            async with self._client.driver.start_session() as session:
                await session.with_transaction(flush)

        try:
            await self._client.call(transaction, _SECONDS)
        except DuplicateKeyError:
            # Two first flushes that meet are one flush: who loses finds it made.
            return False
        return True

    async def read(
        self, owner: str, calendar: Calendar, first: dt.date, last: dt.date, *, key: str | None, flag: str | None
    ) -> Sequence[Stat]:
        """Return the records that touch these days, in the order of key, flag and time."""
        query: dict[str, Any] = {
            "type": calendar.value,
            "owner": _id(owner),
            "year": {"$gte": first.year, "$lte": last.year},
        }
        if key is not None:
            query["key"] = key
        if flag is not None:
            query["flag"] = flag or None
        found = await self._client.call(lambda: self._stats.find(query).to_list(), _SECONDS)
        stats = [_stat(one, owner) for one in found]
        return sorted(
            (one for one in stats if _touches(one.bucket, first, last)), key=lambda one: (one.bucket, one.values)
        )


def _writes(bucket: Bucket, values: Mapping[int, int]) -> Sequence[UpdateOne]:
    """Return what makes the record where it is missing, and what adds to it: one update cannot do both to an array."""
    where, name = {"_id": _record_id(bucket)}, _VALUES[bucket.calendar]
    now = dt.datetime.now(dt.UTC)
    made: dict[str, Any] = {"type": bucket.calendar.value, "owner": _id(bucket.owner), "key": bucket.key}
    if bucket.flag:
        made["flag"] = bucket.flag
    made |= {"year": bucket.year}
    made |= {part: value for part, value in (("month", bucket.month), ("day", bucket.day)) if value}
    made |= {"shares": [], "groups": [], "clients": [], "created_at": now, name: [0] * bucket.size}
    added = {f"{name}.{index}": amount for index, amount in values.items()}
    return (
        UpdateOne(where, {"$setOnInsert": made}, upsert=True),
        UpdateOne(where, {"$inc": added, "$set": {"updated_at": now}}),
    )


def _record_id(bucket: Bucket) -> ObjectId:
    return ObjectId(hashlib.blake2b(json.dumps(bucket).encode(), digest_size=12).digest())


def _id(owner: str) -> ObjectId | str | None:
    """Return an owner as the platform keeps it; one of another kind as text, and nobody as nothing."""
    if ObjectId.is_valid(owner) and str(ObjectId(owner)) == owner:
        return ObjectId(owner)
    return owner or None


def _stat(found: Mapping[str, Any], owner: str) -> Stat:
    calendar = Calendar(found["type"])
    parts = (found["year"], found.get("month", 0), found.get("day", 0))
    bucket = Bucket(calendar, owner, found["key"], found.get("flag") or "", *parts)
    return Stat(bucket, tuple(map(int, found[_VALUES[calendar]])))


def _touches(bucket: Bucket, first: dt.date, last: dt.date) -> bool:
    if bucket.calendar is Calendar.DAILY:
        return (first.year, first.month, first.day) <= bucket[4:] <= (last.year, last.month, last.day)
    if bucket.calendar is Calendar.MONTHLY:
        return (first.year, first.month) <= bucket[4:6] <= (last.year, last.month)
    return True
