"""Every index that our queries need, and what for; made at the start where it is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from companion.core.errors import Permanent
from companion.stores.mongo import accounts, audits, rules, sessions
from companion.stores.mongo.client import MongoClient

log = structlog.get_logger("companion.stores.mongo")

_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Index:
    """An index of a collection of ours; `purpose` is for people."""

    collection: str
    keys: tuple[tuple[str, int], ...]
    purpose: str
    unique: bool = False

    @property
    def name(self) -> str:
        """The name as MongoDB makes it."""
        return "_".join(f"{field}_{direction}" for field, direction in self.keys)


INDEXES: Final = (
    Index(accounts.COLLECTION, (("username", 1),), "finds the account at every login; one account a name", unique=True),
    Index(rules.COLLECTION, (("subject", 1),), "finds the rules of whoever connects"),
    Index(sessions.COLLECTION, (("expires_at", 1),), "finds the sessions that housekeeping removes"),
    Index(audits.COLLECTION, (("at", 1),), "finds the records that housekeeping removes"),
)


PICTURED: Final = (accounts.COLLECTION,)
"""Collections whose changes must tell what stood there before."""


async def ensure(client: MongoClient) -> None:
    """Make what is missing; several processes may do it at once. Raises `Transient` while MongoDB is away."""

    async def make() -> None:
        for index in INDEXES:
            collection = client.database[index.collection]
            await collection.create_index(list(index.keys), name=index.name, unique=index.unique)

    await client.call(make, _SECONDS)
    for name in await without_pictures(client):
        try:
            await client.call(
                lambda name=name: client.database.command(  # type: ignore[misc]
                    {"collMod": name, "changeStreamPreAndPostImages": {"enabled": True}}
                )
            )
        except Permanent as problem:
            log.warning("no pre-images: an account that is removed empties every cache", problem=str(problem))


async def missing(client: MongoClient) -> list[Index]:
    """Return the indexes that are not there (a collection that is not there has none)."""

    async def look() -> list[Index]:
        found = []
        for index in INDEXES:
            existing = await (await client.database[index.collection].list_indexes()).to_list()
            if not any(_serves(one, index) for one in existing):
                found.append(index)
        return found

    return await client.call(look, _SECONDS)


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


def _serves(existing: Mapping[str, Any], index: Index) -> bool:
    return tuple(existing["key"].items()) == index.keys and (not index.unique or bool(existing.get("unique")))
