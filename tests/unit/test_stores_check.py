"""`companion stores check`: what it looks at, what it says, and that it changes nothing."""

from __future__ import annotations

from pathlib import Path

import redis as blocking

from companion.settings import Settings
from companion.stores.checking import check
from tests.support import mongo
from tests.support.mosquitto import free_port
from tests.support.production import settings_of
from tests.support.redis import redis_server


def production(mongo_url: str, redis_url: str) -> Settings:
    return Settings.model_validate(settings_of(mongo_url, redis_url))


async def problems(settings: Settings) -> dict[str, str | None]:
    """Return what was found, by store and matter."""
    return {f"{one.store}: {one.what}": one.problem for one in await check(settings)}


async def test_the_embedded_store(tmp_path: Path) -> None:
    """One file, that can be read."""
    assert await problems(Settings(data_dir=tmp_path)) == {"sqlite: can be read": None}


async def test_missing_indexes_and_a_forgetful_redis(tmp_path: Path) -> None:
    """What is missing is named with its purpose, and stays missing; Redis is asked how it keeps what it has."""
    async with redis_server(tmp_path) as server:
        settings = production(mongo.shared_url(), server.url)
        for _ in range(2):
            found = await problems(settings)
            missing = [name for name, problem in found.items() if problem and "missing" in problem]
            assert (
                "mongodb: index username_1 of mqtt_accounts: finds the account at every login; one account a name"
                in missing
            )
            assert "mongodb: pre-images of mqtt_accounts: tell whose account was removed" in missing
            assert len(missing) == 19
            assert found["redis: keeps what it was given"] is None
        with blocking.Redis(port=server.port) as admin:
            admin.config_set("appendfsync", "everysec")
            assert "appendfsync always" in str((await problems(settings))["redis: keeps what it was given"])
            admin.config_set("appendonly", "no")
            assert "appendonly yes" in str((await problems(settings))["redis: keeps what it was given"])
            admin.config_set("appendonly", "yes")
            admin.config_set("appendfsync", "always")
            admin.config_set("maxmemory", "100mb")
            admin.config_set("maxmemory-policy", "allkeys-lru")
            assert "noeviction" in str((await problems(settings))["redis: keeps what it was given"])


async def test_stores_that_are_away() -> None:
    """Both are named, each with its problem."""
    nobody = f"127.0.0.1:{free_port()}"
    found = await problems(production(f"mongodb://{nobody}/?replicaSet=rs0", f"redis://{nobody}/0"))
    assert list(found) == ["mongodb: can be looked at", "redis: can be looked at"]
    assert all(found.values())
