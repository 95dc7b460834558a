"""Every index that our queries need, and what for; made at the start where it is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from pymongo.errors import DuplicateKeyError

from companion.account_sources import AccountSource, RuleSource
from companion.core.errors import Permanent
from companion.stores.mongo import accounts, audits, presence, revocations, rules, runs, sessions
from companion.stores.mongo.client import MongoClient
from companion.stores.mongo.gathering import key_of
from companion.stores.mongo.mapping import ID

log = structlog.get_logger("companion.stores.mongo")

_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Index:
    """An index; `purpose` is for people. `database` is empty for our own.

    In a collection of others every index that begins with the keys serves, and none is made where there is no such collection.
    """

    collection: str
    keys: tuple[tuple[str, int], ...]
    purpose: str
    unique: bool = False
    database: str = ""

    @property
    def name(self) -> str:
        """The name as MongoDB makes it."""
        return "_".join(f"{field}_{direction}" for field, direction in self.keys)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.database}.{self.collection}" if self.database else self.collection


OWN: Final = (
    Index(accounts.COLLECTION, (("username", 1),), "finds the account at every login; one account a name", unique=True),
    Index(rules.COLLECTION, (("subject", 1),), "finds the rules of whoever connects"),
    Index(sessions.COLLECTION, (("expires_at", 1),), "finds the sessions that housekeeping removes"),
    Index(sessions.COLLECTION, (("session", 1), ("client_id", 1)), "finds the clients of a platform session"),
    Index(sessions.COLLECTION, (("jti", 1), ("client_id", 1)), "finds the clients of a token"),
    Index(sessions.COLLECTION, (("digest", 1), ("client_id", 1)), "finds the clients of a token"),
    Index(revocations.COLLECTION, (("key", 1), ("lifted_at", 1)), "finds whether somebody is revoked"),
    Index(revocations.COLLECTION, (("lifted_at", 1), ("_id", 1)), "finds all who are revoked"),
    Index(revocations.COLLECTION, (("waiting", 1), ("due_at", 1)), "finds what is left to do about revocations"),
    Index(revocations.COLLECTION, (("at", -1),), "finds the newest revocations"),
    Index(audits.COLLECTION, (("at", 1),), "finds the records that housekeeping removes"),
    Index(audits.COLLECTION, (("chain", 1), ("number", 1)), "finds the entries of a chain"),
    Index(presence.COLLECTION, (("principal", 1),), "finds who is connected for somebody"),
    Index(presence.COLLECTION, (("told", 1),), "finds what the presence topic does not show yet"),
    Index(presence.EVENTS, (("taken_at", 1),), "finds the events that housekeeping removes"),
    Index(runs.COLLECTION, (("state", 1), ("priority", -1), ("due_at", 1)), "finds the runs that are to be begun"),
    Index(runs.COLLECTION, (("job", 1), ("requested_at", -1)), "finds the runs of a job"),
    Index(runs.COLLECTION, (("requested_at", -1),), "finds the newest runs"),
)


PICTURED: Final = (accounts.COLLECTION,)
"""Collections whose changes must tell what stood there before."""


def wanted(
    account_sources: Sequence[AccountSource],
    rule_sources: Sequence[RuleSource],
    statistics: str = "",
    traces: Sequence[tuple[str, tuple[str, ...]]] = (),
) -> Sequence[Index]:
    """Return our own and those that looking into the collections of others needs; `statistics` is theirs, if there are any.

    `traces` are collections and the fields by which what deleted accounts have left is found there.
    """
    found = [
        (source.collection, field, "finds the account at every login")
        for source in account_sources
        for field in source.username
        if field != ID
    ]
    found += [(one.common_acls, "acc", "finds the rules of all accounts") for one in account_sources if one.common_acls]
    found += [(one.collection, key_of(one), "finds the rules of whoever connects") for one in rule_sources]
    if statistics:
        found.append((statistics, "owner", "finds the statistics of an owner"))
    foreign = []
    for name, field, purpose in dict.fromkeys(found):
        database, _, collection = name.partition(".")
        foreign.append(Index(collection, ((field, 1),), purpose, database=database))
    for name, fields in dict.fromkeys(traces):
        database, _, collection = name.partition(".") if "." in name else ("", "", name)
        keys = tuple((field, 1) for field in fields)
        foreign.append(Index(collection, keys, "finds what deleted accounts have left", database=database))
    return (*OWN, *foreign)


async def ensure(client: MongoClient, indexes: Sequence[Index] = OWN) -> None:
    """Make what is missing; several processes may do it at once. Raises `Transient` while MongoDB is away."""
    # Ours at once: until the one on user names is there, a name can be taken twice.
    for index in [index for index in indexes if not index.database]:
        await _make(client, index)
    for index in await missing(client, [index for index in indexes if index.database]):
        await _make(client, index)
    for name in await without_pictures(client):
        try:
            await client.call(
                lambda name=name: client.database.command(  # type: ignore[misc]
                    {"collMod": name, "changeStreamPreAndPostImages": {"enabled": True}}
                )
            )
        except Permanent as problem:
            log.warning("no pre-images: an account that is removed empties every cache", problem=str(problem))


async def _make(client: MongoClient, index: Index) -> None:
    async def make() -> None:
        await _collection(client, index).create_index(list(index.keys), name=index.name, unique=index.unique)

    try:
        await client.call(make, _SECONDS)
    except DuplicateKeyError:
        log.error("an index cannot be made: several documents have the same value", index=index.place, keys=index.name)
    except Permanent as problem:
        if not index.database:
            raise
        log.warning(
            "an index cannot be made: look-ups read a whole collection", index=index.place, problem=str(problem)
        )


async def missing(client: MongoClient, indexes: Sequence[Index] = OWN) -> list[Index]:
    """Return the indexes that are not there (a collection of ours that is not there has none)."""
    existing: dict[str, list[Mapping[str, Any]] | None] = {}
    for index in indexes:
        if index.place not in existing:
            existing[index.place] = await client.call(lambda index=index: _existing(client, index), _SECONDS)  # type: ignore[misc]
    return [index for index in indexes if not _served(index, existing[index.place])]


async def _existing(client: MongoClient, index: Index) -> list[Mapping[str, Any]] | None:
    """Return the indexes of a collection; None where there is no such collection."""
    collection = _collection(client, index)
    if not await collection.database.list_collection_names(filter={"name": index.collection}):
        return None
    found: list[Mapping[str, Any]] = await (await collection.list_indexes()).to_list()
    return found


async def without_pictures(client: MongoClient) -> list[str]:
    """Return those collections of `PICTURED` that do not keep pre-images (MongoDB 6)."""

    async def look() -> list[str]:
        listed = await (await client.database.list_collections(filter={"name": {"$in": list(PICTURED)}})).to_list()
        kept = {
            one["name"]
            for one in listed
            if ((one.get("options") or {}).get("changeStreamPreAndPostImages") or {}).get("enabled")
        }
        return [name for name in PICTURED if name not in kept]

    return await client.call(look, _SECONDS)


def _collection(client: MongoClient, index: Index) -> Any:  # noqa: ANN401 - the driver's type has a parameter that says nothing here
    return (client.driver[index.database] if index.database else client.database)[index.collection]


def _served(index: Index, existing: list[Mapping[str, Any]] | None) -> bool:
    if existing is None:
        return bool(index.database)
    return any(_serves(one, index) for one in existing)


def _serves(existing: Mapping[str, Any], index: Index) -> bool:
    keys = tuple(existing["key"].items())
    if index.database:
        return keys[: len(index.keys)] == index.keys and not existing.get("partialFilterExpression")
    return keys == index.keys and (not index.unique or bool(existing.get("unique")))
