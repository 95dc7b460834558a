"""Collections that are mirrored, read in the order of the mirror, range by range, each with the time before which it was read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from bson import ObjectId, Timestamp
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.read_concern import ReadConcern

from companion.core.errors import Permanent
from companion.core.ports import Copy
from companion.stores.mongo.client import NAME, MongoClient
from companion.stores.mongo.hot import OBJECT_ID, OTHER, TEXT, Hot, mirrored_id, version_read_at
from companion.stores.mongo.mapping import ID
from companion.stores.mongo.raw import RAW, UNSOUND, decode, decode_as_far_as_possible

_SECONDS: Final = 10.0

_TYPES: Final[Mapping[str, tuple[str, str, Callable[[str], Any]]]] = {
    OBJECT_ID: ("objectId", "p", ObjectId),
    TEXT: ("string", "t", str),
}
"""What the ids of a letter are to MongoDB, what is behind them all in the mirror, and how one is read."""


@dataclass(frozen=True, slots=True)
class Range:
    """The copies of the documents behind `after` up to `through` (None: to the end), as they were at `time` or later.

    `whole` has those that have expired as if they had not.
    """

    after: str
    through: str | None
    time: Timestamp
    copies: Sequence[Copy]
    whole: Mapping[str, Copy]

    @property
    def version(self) -> int:
        """The version of whatever this range says."""
        return version_read_at(self.time)


async def operation_time(client: MongoClient, session: AsyncClientSession | None = None) -> Timestamp:
    """Return the time of the cluster: everything that was acknowledged before happened no later."""
    answer = await client.call(lambda: client.database.command("ping", session=session))
    found = answer.get("operationTime")
    if not isinstance(found, Timestamp):
        raise Permanent(f"{NAME}: this is no replica set")
    return found


async def read_range(
    client: MongoClient, hot: Hot, after: str, limit: int, clock: Callable[[], float] = time.time
) -> Range:
    """Read up to `limit` documents behind `after`; those whose `_id` is neither an ObjectId nor text are one range."""
    letter, query, end = _what(after)
    db, name = hot.namespace
    found = cast("AsyncCollection[Any]", client.driver[db][name])
    collection = found.with_options(RAW, read_concern=ReadConcern("majority"))
    fields = dict.fromkeys(sorted({*hot.fields, ID}), 1)
    # A session is causal: what is read in it is as late as its last answer.
    async with client.driver.start_session() as session:
        at = await operation_time(client, session)
        cursor = collection.find(query, fields, session=session).sort(ID, 1).limit(0 if letter == OTHER else limit)
        documents = await client.call(cursor.to_list, _SECONDS)
    version, now = version_read_at(at), clock()
    copies: list[Copy] = []
    whole: dict[str, Copy] = {}
    for raw in documents:
        try:
            document = decode(raw)
        except UNSOUND:
            document = dict(decode_as_far_as_possible(raw))
            if ID in document:
                copies.append(hot.unreadable(document, version))
            continue
        copies.append(hot.copy_of(document, version, now))
        without_expiry = hot.copy_of(document, version, 0)
        if without_expiry.document != copies[-1].document:
            whole[without_expiry.id] = without_expiry
    if letter != OTHER and len(documents) == limit:
        end = mirrored_id(decode_as_far_as_possible(documents[-1])[ID])
    return Range(after, end, at, copies, whole)


def _what(after: str) -> tuple[str, Mapping[str, Any], str | None]:
    """Return the letter of the ids behind `after`, the query for their documents, and what is behind them all."""
    if after < _TYPES[OBJECT_ID][1]:
        letter = OBJECT_ID
    elif after < _TYPES[TEXT][1]:
        letter = TEXT
    else:
        kinds = [kind for kind, _, _ in _TYPES.values()]
        return OTHER, {ID: {"$not": {"$type": kinds}}}, None
    kind, end, read = _TYPES[letter]
    condition: dict[str, Any] = {"$type": kind}
    if after.startswith(letter):
        condition["$gt"] = read(after[1:])
    return letter, {ID: condition}, end
