"""The production profile as one store: MongoDB for what is looked up and kept, Redis for what replicas share."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Final, Self

import structlog

from companion.background import background
from companion.core.errors import CompanionError
from companion.core.ports import Source
from companion.settings import Settings
from companion.stores import mongo, redis
from companion.stores.announcing import AnnouncingAccounts, AnnouncingRules, AnnouncingSessions
from companion.stores.counters import FallbackCounters, LocalCounters
from companion.stores.mongo import MongoClient, MongoConfig, indexes, open_mongo
from companion.stores.mongo.accounts import MongoAccounts
from companion.stores.mongo.audits import MongoAudits
from companion.stores.mongo.rules import MongoRules
from companion.stores.mongo.sessions import MongoSessions
from companion.stores.redis import RedisClient, RedisConfig, open_redis
from companion.stores.redis.checkpoints import RedisCheckpoints
from companion.stores.redis.counters import RedisCounters
from companion.stores.redis.inbox import RedisInbox
from companion.stores.redis.leases import RedisLeases
from companion.stores.redis.notices import RedisNotices

log = structlog.get_logger("companion.stores.production")

_AGAIN_SECONDS: Final = (0.5, 30.0)


class ProductionStore:
    """The port `Store` over MongoDB and Redis."""

    hooks_need: Collection[str] = frozenset({mongo.NAME})

    def __init__(self, mongo_client: MongoClient, redis_client: RedisClient) -> None:
        self._mongo = mongo_client
        self._redis = redis_client
        self.notices = RedisNotices(redis_client)
        self.accounts = AnnouncingAccounts(MongoAccounts(mongo_client), self.notices)
        self.rules = AnnouncingRules(MongoRules(mongo_client), self.notices)
        self.sessions = AnnouncingSessions(MongoSessions(mongo_client), self.notices)
        self.audits = MongoAudits(mongo_client)
        self.counters = FallbackCounters(RedisCounters(redis_client), LocalCounters())
        self.leases = RedisLeases(redis_client)
        self.inbox = RedisInbox(redis_client)
        self.checkpoints = RedisCheckpoints(redis_client)
        self.sources: Sequence[Source] = ()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Open both until the block ends; one that is away is waited for by whoever needs it.

        Raises `Invalid` for an address that cannot be understood.
        """
        to_mongo = MongoConfig(settings.mongo_url.get_secret_value(), settings.mongo_database, settings.mongo_timeout)
        to_redis = RedisConfig(
            settings.redis_url.get_secret_value(),
            settings.redis_prefix,
            settings.redis_mode,
            settings.redis_nodes,
            settings.redis_service,
            settings.redis_ca_file,
            settings.redis_timeout,
        )
        async with (
            open_mongo(to_mongo) as mongo_client,
            open_redis(to_redis) as redis_client,
            background(_keep_indexes(mongo_client)),
        ):
            yield cls(mongo_client, redis_client)

    async def troubles(self) -> Mapping[str, str | None]:
        """Ask both whether they can serve."""
        of_mongo, of_redis = await asyncio.gather(self._mongo.trouble(), self._redis.trouble())
        return {mongo.NAME: of_mongo, redis.NAME: of_redis}


async def _keep_indexes(client: MongoClient) -> None:
    """Make the indexes as soon as MongoDB can be reached."""
    pause, longest = _AGAIN_SECONDS
    while True:
        try:
            await indexes.ensure(client)
        except CompanionError as problem:
            log.warning("indexes are not ensured yet", problem=str(problem))
        else:
            return
        await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing
        pause = min(pause * 2, longest)
