"""What somebody writes into MongoDB, by no door of ours, is felt by the hooks: how soon, and over which way."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from companion.core.ports import Store
from companion.core.rules import Effect, Rule, RuleAction, subject_of_account
from tests.conftest import Note
from tests.support.eventually import eventually
from tests.support.mongo import MongoServer, mongo_server
from tests.support.production import settings_of
from tests.support.proxy import Proxy, proxied
from tests.support.redis import redis_server
from tests.support.service import Service, account_of, serving

Database = AsyncDatabase[dict[str, Any]]

TOPIC = "telemetry/alice/1"
TIMES = 20
LIFE = 2.0
"""The life of what is remembered, in the tests where no word arrives."""

MACHINE = 0.5
"""What a busy machine may add to it: the last answer was asked for in time, and came later."""


@dataclass(frozen=True, slots=True)
class House:
    """Two replicas, both with a proxy before Redis, and a way into MongoDB that is not ours."""

    replicas: Sequence[Service]
    db: Database
    redis: Proxy
    mongo: AsyncMongoClient[dict[str, Any]]
    server: MongoServer

    async def set_disabled(self, *, disabled: bool) -> None:
        """Write it into the account's document."""
        await self.db.mqtt_accounts.update_one({"username": "alice"}, {"$set": {"disabled": disabled}})

    async def deafen(self) -> None:
        """Let no word arrive any more: Redis is a black hole, and change streams tell nothing."""
        self.redis.swallow()
        await self.mongo.admin.command({"companionFault": "deaf", "on": True})


@pytest.fixture
async def house(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    (tmp_path / "mongo").mkdir()
    async with AsyncExitStack() as stack:
        mongo = await stack.enter_async_context(mongo_server(tmp_path / "mongo"))
        redis = await stack.enter_async_context(redis_server(tmp_path / "redis"))
        proxy = await stack.enter_async_context(proxied(redis.port))
        settings: dict[str, Any] = {
            **settings_of(mongo.url, f"redis://127.0.0.1:{proxy.port}/0"),
            "cache_seconds": getattr(request, "param", 600.0),
            "throttle_failures": 0,
        }
        replicas = [await stack.enter_async_context(serving(tmp_path, **settings)) for _ in range(2)]
        direct = await stack.enter_async_context(
            # Closing it waits for a server, also for one that a test has killed.
            AsyncMongoClient[dict[str, Any]](mongo.url, serverSelectionTimeoutMS=2000)
        )
        await replicas[0].store.accounts.add([account_of("alice", "secret")])
        await replicas[0].store.rules.add(
            Rule(subject_of_account("alice"), Effect.ALLOW, RuleAction.PUBLISH, "telemetry/${username}/#")
        )
        for service in replicas:
            await service.remembers("alice", TOPIC)
        yield House(replicas, direct[settings["mongo_database"]], proxy, direct, mongo)
        proxy.heal()


short_lived = pytest.mark.parametrize("house", [LIFE], indirect=True)


async def allowed(service: Service, client: str = "c1") -> bool:
    return await service.may("alice", "publish", TOPIC, client)


async def lets_in(service: Service) -> bool:
    return bool((await service.login("alice", "secret"))["result"] == "allow")


async def felt(ask: Callable[[], Awaitable[bool]], *, wanted: bool, seconds: float = 10.0) -> float:
    """Return after how many seconds the answer is `wanted`."""
    begun = time.monotonic()

    async def as_wanted() -> bool:
        return await ask() is wanted

    await eventually(as_wanted, seconds, f"the answer is {wanted}")
    return time.monotonic() - begun


async def back_and_forth(house: House) -> Sequence[float]:
    """Disable and enable the account in turns; return after how many seconds the slower replica felt it, logins included."""
    seconds = []
    for number in range(TIMES):
        disabled = number % 2 == 0
        await house.set_disabled(disabled=disabled)
        asks = [lambda one=one, ask=ask: ask(one) for one in house.replicas for ask in (allowed, lets_in)]
        seconds.append(max(await asyncio.gather(*(felt(ask, wanted=not disabled) for ask in asks))))
    return seconds


async def test_a_direct_write(house: House, note: Note) -> None:
    """An account disabled or enabled in MongoDB is refused or let in by every replica in under a second."""
    seconds = statistics.median(await back_and_forth(house))
    note(f"felt, an account, by a direct write: {seconds:.3f} s (median of {TIMES})")
    assert seconds < 1


async def test_a_direct_write_without_redis(house: House, note: Note) -> None:
    """With Redis in a black hole the change stream tells it as soon."""
    house.redis.swallow()
    seconds = statistics.median(await back_and_forth(house))
    note(f"felt, an account, by a direct write without Redis: {seconds:.3f} s (median of {TIMES})")
    assert seconds < 1


async def test_a_rule_removed_without_redis(house: House, note: Note) -> None:
    """The same for a rule that is removed, and for one that is written, by hand."""
    house.redis.swallow()
    seconds = []
    document = await house.db.mqtt_rules.find_one({})
    assert document is not None
    for _ in range(TIMES // 2):
        await house.db.mqtt_rules.delete_one({"_id": document["_id"]})
        seconds.append(max([await felt(lambda one=one: allowed(one), wanted=False) for one in house.replicas]))  # type: ignore[misc]
        await house.db.mqtt_rules.insert_one(document)
        seconds.append(max([await felt(lambda one=one: allowed(one), wanted=True) for one in house.replicas]))  # type: ignore[misc]
    note(f"felt, a rule, by a direct write without Redis: {statistics.median(seconds):.3f} s (median of {TIMES})")
    assert statistics.median(seconds) < 1


@short_lived
async def test_without_any_word_an_account(house: House, note: Note) -> None:
    """Where no word arrives, what is remembered ends within its life: logins, and clients connected before and since.

    Clients that come meanwhile are judged by the account that is remembered; they must not prolong its life.
    """
    service = house.replicas[0]
    await house.deafen()
    for disabled in (True, False):
        clients = (f"{disabled}-{number}" for number in itertools.count())
        known: list[str] = []
        await felt(lambda: lets_in(service), wanted=disabled)
        await house.set_disabled(disabled=disabled)
        begun = last = time.monotonic()
        while time.monotonic() - begun < 2 * LIFE + MACHINE:
            known.append(next(clients))
            asked = time.monotonic()
            answers = [await service.may("alice", "publish", TOPIC, client) for client in known]
            if disabled in [*answers, await lets_in(service)]:
                last = asked
            await asyncio.sleep(0.1)
        note(f"felt, an account disabled={disabled}, without any word: {last - begun:.3f} s (life {LIFE:g} s)")
        assert last - begun > 0, "the word did arrive: nothing is shown"
        assert last - begun <= LIFE + MACHINE


@short_lived
async def test_without_any_word_a_rule(house: House, note: Note) -> None:
    """The same for a rule that is removed, and for one that is written."""
    service = house.replicas[0]
    await house.deafen()
    document = await house.db.mqtt_rules.find_one({})
    assert document is not None
    # A client of its own, so that what is remembered of it begins now.
    assert await allowed(service, "new")
    await house.db.mqtt_rules.delete_one({"_id": document["_id"]})
    assert await allowed(service, "new"), "the word did arrive: nothing is shown"
    removed = await felt(lambda: allowed(service, "new"), wanted=False)
    await house.db.mqtt_rules.insert_one(document)
    written = await felt(lambda: allowed(service, "new"), wanted=True)
    note(f"felt, a rule removed {removed:.3f} s, written {written:.3f} s, without any word (life {LIFE:g} s)")
    assert max(removed, written) <= LIFE + MACHINE


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("house", [0.2], indirect=True)
async def test_what_was_learned_in_passing(house: House, gone: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Who was once found disabled, or gone, is not served from memory when the store is away, whatever client asks."""
    service = house.replicas[0]
    clients = ("c1", "c2")
    assert all([await allowed(service, client) for client in clients])
    await house.deafen()
    if gone:
        await house.db.mqtt_accounts.delete_one({"username": "alice"})
    else:
        await house.set_disabled(disabled=True)
    # Only this one asks, until what is remembered of it has ended.
    await felt(lambda: allowed(service, clients[0]), wanted=False)
    house.server.kill()
    assert [await allowed(service, client) for client in clients] == [False, False]
    assert not await lets_in(service)
    # The driver leaves a socket open that it is just connecting when it is closed.
    await asyncio.to_thread(house.server.start)
    for store in (one.running.store for one in house.replicas):
        await eventually(lambda store=store: _here(store), what="MongoDB is found back")  # type: ignore[misc]


async def _here(store: Store) -> bool:
    return (await store.troubles())["mongodb"] is None


@pytest.mark.parametrize("house", [0.2], indirect=True)
async def test_a_store_that_says_nothing(house: House) -> None:
    """Somebody connected is served from memory well before the deadline while MongoDB is frozen, whatever was being looked up."""
    service = house.replicas[0]
    assert await allowed(service)
    house.server.freeze()
    try:
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        assert await allowed(service)
        assert time.monotonic() - begun < service.settings.hooks_deadline / 3 + MACHINE
        assert await service.metric("companion_stale_served_total", cache="policy") >= 1
    finally:
        house.server.thaw()
