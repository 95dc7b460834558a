"""The service on the production profile: MongoDB, Redis and a broker, all of them processes that can be killed."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from companion.core.rules import Effect, Rule, RuleAction, subject_of_account
from companion.settings import Role
from tests.support.eventually import eventually
from tests.support.mongo import MongoServer, mongo_server
from tests.support.mosquitto import Mosquitto
from tests.support.production import settings_of
from tests.support.redis import RedisServer, redis_server
from tests.support.service import Service, account_of, serving
from tests.support.subscriber import subscriber
from tests.support.waiting import wait_until

LEASE = 2.0


@dataclass(frozen=True, slots=True)
class Stores:
    """Servers of one test's own, and the settings of a service over them."""

    mongo: MongoServer
    redis: RedisServer
    settings: dict[str, Any]


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    (tmp_path / "mongo").mkdir()
    async with mongo_server(tmp_path / "mongo") as mongo, redis_server(tmp_path / "redis") as redis:
        yield Stores(mongo, redis, {**settings_of(mongo.url, redis.url), "publisher_lease": LEASE})


async def people(service: Service) -> None:
    await service.store.accounts.add([account_of("alice", "secret")])
    await service.store.rules.add(
        Rule(subject_of_account("alice"), Effect.ALLOW, RuleAction.PUBLISH, "telemetry/${username}/#")
    )


async def readiness(service: Service) -> tuple[int, dict[str, Any]]:
    async with service.http.get(f"{service.ops}/readyz") as response:
        return response.status, await response.json()


async def test_end_to_end(tmp_path: Path, stores: Stores) -> None:
    """A login, a publish, and a change that reaches its owner."""
    async with (
        Mosquitto() as broker,
        subscriber(broker.port, "alice/#") as inbox,
        serving(tmp_path, Role.ALL, **stores.settings, mqtt_port=broker.port) as service,
    ):
        await people(service)
        assert (await service.login("alice", "secret"))["result"] == "allow"
        assert (await service.login("alice", "wrong"))["result"] == "deny"
        assert await service.may("alice", "publish", "telemetry/alice/1")
        assert not await service.may("alice", "publish", "telemetry/bob/1")
        body = {"op": "create", "db": "thing", "collection": "devices", "id": "1", "after": {"owner": "alice"}}
        assert (await service.change(body))[0] == 202
        await wait_until(lambda: bool(inbox.messages), 20, "the message arrives")
        assert inbox.messages[0].topic == "alice/thing/1/devices"

        async def ready() -> bool:
            return (await readiness(service))[0] == 200

        await eventually(ready, what="everything is ready")
        assert (await readiness(service))[1]["stores"] == {"mongodb": "ready", "redis": "ready"}
        assert [record.verdict for record in await service.audits(3)] == ["allow", "deny", "deny"]


async def test_a_change_is_felt_by_another_replica(tmp_path: Path, stores: Stores) -> None:
    """An account disabled or enabled through one replica is refused or let in by the other in under a second."""
    seconds = []
    async with serving(tmp_path, **stores.settings) as one, serving(tmp_path, **stores.settings) as two:
        await people(one)
        for number in range(20):
            disabled = number % 2 == 0
            assert await two.may("alice", "publish", "telemetry/alice/1") is disabled
            begun = time.monotonic()
            await one.store.accounts.set_disabled("alice", disabled=disabled)

            async def felt(*, wanted: bool = not disabled) -> bool:
                return await two.may("alice", "publish", "telemetry/alice/1") is wanted

            await eventually(felt, what="the other replica knows")
            seconds.append(time.monotonic() - begun)
    assert statistics.median(seconds) < 1


async def test_without_redis_the_hooks_go_on(tmp_path: Path, stores: Stores) -> None:
    """Logins and publishes are decided from MongoDB; /readyz names Redis and is still 200; Redis is found back."""
    async with serving(tmp_path, **stores.settings) as service:
        await people(service)
        stores.redis.kill()
        assert (await service.login("alice", "secret"))["result"] == "allow"
        assert (await service.login("alice", "wrong"))["result"] == "deny"
        assert await service.may("alice", "publish", "telemetry/alice/1")
        status, body = await readiness(service)
        assert (status, body["roles"]) == (200, {"hooks": "ready"})
        assert body["stores"]["mongodb"] == "ready"
        assert body["stores"]["redis"].startswith("redis")
        await asyncio.to_thread(stores.redis.start)

        async def back() -> bool:
            return bool((await readiness(service))[1]["stores"]["redis"] == "ready")

        await eventually(back, what="Redis is back")


async def test_without_mongodb_only_what_was_allowed_is(tmp_path: Path, stores: Stores) -> None:
    """A policy that was in use serves on, also after its time; a stranger is refused with `store_away`; then all is well again."""
    async with serving(tmp_path, **stores.settings, cache_seconds=0.5, cache_stale=600) as service:
        await people(service)
        await service.remembers("alice", "telemetry/alice/1")
        assert (await service.login("alice", "secret"))["result"] == "allow"
        stores.mongo.kill()
        await asyncio.sleep(0.6)
        assert await service.may("alice", "publish", "telemetry/alice/1")
        assert not await service.may("alice", "publish", "telemetry/bob/1")
        assert not await service.may("bob", "publish", "telemetry/bob/1")
        assert (await service.login("alice", "wrong"))["result"] == "deny"
        away = {"hook": "authz", "verdict": "deny", "reason": "store_away"}
        assert await service.metric("companion_hook_decisions_total", **away) == 1
        assert await service.metric("companion_stale_served_total", cache="policy") >= 1
        status, body = await readiness(service)
        assert (status, body["stores"]["redis"]) == (503, "ready")
        assert "mongodb" in body["roles"]["hooks"]
        await asyncio.to_thread(stores.mongo.start)

        async def back() -> bool:
            return bool((await service.login("alice", "secret"))["result"] == "allow")

        await eventually(back, 30, what="MongoDB is back")


async def test_starting_before_the_stores(tmp_path: Path, stores: Stores) -> None:
    """A service that comes first refuses everybody, and decides as soon as the stores are there."""
    stores.mongo.kill()
    stores.redis.kill()
    async with serving(tmp_path, **stores.settings) as service:
        assert (await service.login("alice", "secret"))["result"] == "deny"
        await asyncio.to_thread(stores.mongo.start)
        await asyncio.to_thread(stores.redis.start)

        async def added() -> bool:
            return (await readiness(service))[0] == 200

        await eventually(added, 30, what="the stores are found")
        await people(service)

        async def let_in() -> bool:
            return bool((await service.login("alice", "secret"))["result"] == "allow")

        await eventually(let_in, 30, what="alice is let in")


async def test_one_of_two_publishers_publishes(tmp_path: Path, stores: Stores) -> None:
    """One has the lease and the other stands by; when the first ends, the second goes on, and each change arrives once."""
    async with Mosquitto() as broker, subscriber(broker.port, "alice/#") as inbox:
        settings = {**stores.settings, "mqtt_port": broker.port}

        async def post(service: Service, start: int) -> None:
            for number in range(start, start + 20):
                body = {"op": "update", "db": "d", "collection": "c", "id": "1", "after": {"owner": "alice"}}
                assert (await service.change({**body, "event_id": f"e{number}"}))[0] == 202

        async with serving(tmp_path, Role.PUBLISHER, **settings) as one:
            await eventually(lambda: _leads(one), what="the first leads")
            async with serving(tmp_path, Role.PUBLISHER, **settings) as two:
                await post(two, 0)
                await wait_until(lambda: len(inbox.messages) == 20, 20, "the first changes arrive")
                assert await two.metric("companion_lease_held", lease="publisher") == 0
        async with serving(tmp_path, Role.PUBLISHER, **settings) as three:
            await post(three, 20)
            await wait_until(lambda: len(inbox.messages) == 40, 20, "the others arrive")
        events = [dict(message.properties["user_property"])["event-id"] for message in inbox.messages]
        assert events == [f"e{number}" for number in range(40)]


async def _leads(service: Service) -> bool:
    return await service.metric("companion_lease_held", lease="publisher") == 1
