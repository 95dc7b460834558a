"""The production profile over the MongoDB and the Redis of the whole run; every test has data of its own."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from companion.settings import Settings
from companion.stores.mongo import indexes
from companion.stores.production import ProductionStore, opened_clients
from tests.support import mongo, redis


def settings_of(mongo_url: str, redis_url: str) -> Mapping[str, object]:
    """Return the settings of the profile over these servers, with data of their own."""
    own = secrets.token_hex(6)
    return {
        "store": "production",
        "mongo_url": mongo_url,
        "mongo_database": f"test-{own}",
        "redis_url": redis_url,
        "redis_prefix": f"test-{own}",
        "stats_collection": f"test-{own}-special.stats",
    }


def adapter(folder: Path) -> Callable[[], AbstractAsyncContextManager[ProductionStore]]:
    """Return what opens the stores of one test."""
    del folder
    url = mongo.shared_url()
    values = settings_of(url, redis.shared_server(redis.debian_redis()).url)
    settings = Settings.model_validate({**values, "hooks_deadline": 20.0, "mongo_timeout": 10.0, "redis_timeout": 5.0})

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[ProductionStore]:
        # A service makes them in the background while it starts; a contract rests on them from its first call on.
        async with opened_clients(settings) as (client, _):
            await indexes.ensure(client)
        async with ProductionStore.open(settings) as store:
            yield store

    return opened
