"""A mirror under test: what is mirrored, who keeps it, and whether it is what it should be."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pymongo import AsyncMongoClient

from companion.account_sources import AccountSource
from companion.core.model import Rebuild
from companion.core.ports import Copy, Mirror
from companion.stores.mongo.client import MongoClient, MongoConfig, open_mongo
from companion.stores.mongo.hot import KEY, Hot, document_in, hot_collections
from companion.stores.mongo.ranges import operation_time
from companion.stores.mongo.watcher import MongoWatcher
from tests.support import redis
from tests.support.eventually import eventually

Document = dict[str, Any]


@dataclass
class Heard:
    """An onlooker that remembers."""

    rebuilds: list[tuple[str, Rebuild]] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)
    beats: Counter[str] = field(default_factory=Counter)

    def rebuilding(self, collection: str, why: Rebuild) -> None:
        self.rebuilds.append((collection, why))

    def taken(self, collection: str, copies: int) -> None:
        self.changes[collection] += copies

    def served(self, collection: str, seconds: float) -> None:
        assert seconds >= 0
        self.beats[collection] += 1


@dataclass
class Mirrored:
    """Two databases of one test's own, with collections that are mirrored."""

    client: MongoClient
    db: AsyncMongoClient[Document]
    mirror: Mirror
    sources: Sequence[AccountSource]
    own: str
    heard: Heard = field(default_factory=Heard)
    fence: int = 0

    @property
    def users(self) -> Any:
        return self.db[f"{self.own}-identity"].users

    @property
    def clients(self) -> Any:
        return self.db[f"{self.own}-domain"].clients

    @property
    def accounts(self) -> Any:
        return self.db[self.own].mqtt_accounts

    @property
    def hots(self) -> Sequence[Hot]:
        return hot_collections(self.own, self.sources, ("*",))

    @property
    def hot_users(self) -> Hot:
        (found,) = [hot for hot in self.hots if hot.collection.endswith(".users")]
        return found

    def watcher(self, mirror: Mirror | None = None, batch: int = 1000) -> MongoWatcher:
        return MongoWatcher(self.client, mirror or self.mirror, self.hots, batch)

    async def follow(self, mirror: Mirror | None = None, batch: int = 1000) -> None:
        """Follow as the next holder of the lease."""
        self.fence += 1
        await self.watcher(mirror, batch).follow(self.fence, self.heard)

    @contextlib.asynccontextmanager
    async def following(self, batch: int = 1000, *, settled: bool = True) -> AsyncIterator[None]:
        """Follow while the block runs, which begins once everything may be read."""
        task = asyncio.create_task(self.follow(batch=batch))
        try:
            if settled:
                await self.settled(task)
            yield
            if task.done():
                await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def settled(self, task: asyncio.Task[None] | None = None) -> None:
        """Wait until everything is built and everything that was written before is in the mirror, which may be read."""
        watcher = self.watcher()
        now = await operation_time(self.client)
        at = f"{now.time}.{now.inc}"

        async def done() -> bool:
            if task is not None and task.done():
                await task
            return await watcher.rebuilt(at) and all([await self.find(hot, "nobody") is not None for hot in self.hots])

        await eventually(done, 60, "the mirror is current")

    async def find(self, hot: Hot, name: str) -> Sequence[Copy] | None:
        return await self.mirror.find(hot.place, KEY, name)

    async def wrong(self) -> Mapping[str, int]:
        """Return how many copies are not what they should be, by their kind, each looked at by itself."""
        found: Counter[str] = Counter()
        for hot in self.hots:
            db, name = hot.namespace
            documents = await self.client.driver[db][name].find({}).to_list()
            wanted = {one.id: one for one in (hot.copy_of(document, 0, time.time()) for document in documents)}
            there = await self.mirror.digests(hot.place, "", None)
            for copy_id in wanted.keys() | there.keys():
                copy = await self.mirror.get(hot.place, copy_id) if copy_id in there else None
                expected = wanted.get(copy_id)
                if expected is None or expected.document is None:
                    found["surplus"] += copy is not None
                elif copy is None:
                    found["missing"] += 1
                else:
                    same = (document_in(copy), set(copy.keys)) == (document_in(expected), set(expected.keys))
                    found["stale"] += not same or copy.document != expected.document
        return {kind: count for kind, count in found.items() if count}


def tables_of(own: str) -> Sequence[Mapping[str, str]]:
    """Return the settings for the platform's users and clients in databases of one test."""
    return [
        {"like": "users", "collection": f"{own}-identity.users"},
        {"like": "clients", "collection": f"{own}-domain.clients"},
    ]


@contextlib.asynccontextmanager
async def mirrored(url: str, timeout: float = 5.0) -> AsyncIterator[Mirrored]:  # noqa: ASYNC109 - the setting
    """Open databases of one test's own at this address, which stay, and a mirror of them in the Redis of the whole run."""
    own = f"test-{secrets.token_hex(4)}"
    server = redis.shared_server(redis.debian_redis())
    async with (
        open_mongo(MongoConfig(url, own, timeout)) as client,
        redis.opened(server.url, own) as ports,
        AsyncMongoClient[Document](url) as db,
    ):
        yield Mirrored(client, db, ports.mirror, [AccountSource.model_validate(table) for table in tables_of(own)], own)
