"""The servers of the production profile, of one run's own: a real Redis and the MongoDB stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pymongo import AsyncMongoClient
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from companion.stores.redis.keys import Keys
from tests.faults.history import History
from tests.faults.production_books import ProductionBooks
from tests.support.mongo import MongoServer, mongo_server
from tests.support.production import settings_of
from tests.support.redis import RedisServer, redis_server

Profile = Literal["embedded", "production"]
PROFILES: Final[tuple[Profile, ...]] = ("embedded", "production")

_LOOK_SECONDS: Final = 0.5
_SELECTION_MS: Final = 500


@dataclass(frozen=True, slots=True)
class Servers:
    """Redis and MongoDB, clients of the test, and the settings of a service over them."""

    redis: RedisServer
    mongo: MongoServer
    redis_client: Redis
    mongo_client: AsyncMongoClient[dict[str, Any]]
    history: History
    settings: Mapping[str, object]

    def books(self, log: Path) -> ProductionBooks:
        """Return the books of a service with this log."""
        return ProductionBooks(
            redis=self.redis_client,
            keys=Keys(str(self.settings["redis_prefix"])),
            mongo=self.mongo_client,
            history=self.history,
            database=str(self.settings["mongo_database"]),
            log=log,
        )


@contextlib.asynccontextmanager
async def production(folder: Path) -> AsyncIterator[Servers]:
    """Run both until the block ends; skip the test where the stand-in cannot run."""
    data = folder / "mongo"
    data.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        mongo = await stack.enter_async_context(mongo_server(data))
        redis = await stack.enter_async_context(redis_server(folder / "redis"))
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            mongo.url, serverSelectionTimeoutMS=_SELECTION_MS, heartbeatFrequencyMS=_SELECTION_MS, tz_aware=True
        )
        stack.push_async_callback(client.close)
        # Nothing is tried again: what cannot be told now is asked later.
        once = Retry(NoBackoff(), 0)
        asking = Redis.from_url(
            redis.url, socket_timeout=_LOOK_SECONDS, socket_connect_timeout=_LOOK_SECONDS, retry=once
        )
        stack.push_async_callback(asking.aclose)
        settings = settings_of(mongo.url, redis.url)
        history = History(data, str(settings["mongo_database"]))
        stack.callback(history.close)
        # At level debug the log says of each change when it was acknowledged.
        yield Servers(redis, mongo, asking, client, history, {**settings, "log_format": "json", "log_level": "debug"})
