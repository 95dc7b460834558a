"""Many devices at once: every question is answered in time and in so many words, all get in, and the next storm costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker_hooks.hashing import hash_password
from companion.core.model import Account, Kind
from companion.stores import production
from companion.stores.proofs import QuickProofs
from tests.support.eventually import eventually
from tests.support.mongo import mongo_server
from tests.support.production import settings_of
from tests.support.raw_http import connected, request
from tests.support.redis import RedisServer, redis_server
from tests.support.service import HOOK_KEY, Service, serving

DEVICES = 60
KEY = "the-credential-key-of-the-tests-has-length"
RIGHT = "companion_credential_checks_total"


def fleet(count: int, cost: int) -> list[Account]:
    """Return devices that share a password, and for speed its hash."""
    hashed = hash_password("secret", cost)
    return [Account(f"device-{number}", Kind.DEVICE, f"device-{number}", hashed) for number in range(count)]


class Storm:
    """Devices that connect at once, and again after a refusal until they are in."""

    def __init__(self, service: Service, devices: int) -> None:
        self._service = service
        self._devices = devices
        self.slowest = 0.0
        self.answers: Counter[str] = Counter()

    async def blow(self) -> None:
        """Return when every device is in; anything but an explicit answer fails."""
        await asyncio.gather(*(self._connect(f"device-{number}") for number in range(self._devices)))

    async def _connect(self, name: str) -> None:
        result = ""
        while result != "allow":
            begun = time.monotonic()
            result = (await self._service.login(name, "secret", name))["result"]
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self.answers[result] += 1
            if result != "allow":
                await asyncio.sleep(0.2)


async def checks(service: Service) -> float:
    return await service.metric(RIGHT, outcome="right")


async def test_two_storms(tmp_path: Path) -> None:
    """Most of the first are told that there are too many; none waits beyond the deadline; the second needs no check at all."""
    more: dict[str, Any] = {
        "password_workers": 1,
        "password_waiting": 8,
        "password_deadline": 1.0,
        "hooks_deadline": 10.0,
    }
    async with serving(tmp_path, log_decisions="none", **more) as service:
        await service.store.accounts.add(fleet(DEVICES, 9))
        first = Storm(service, DEVICES)
        await first.blow()
        assert first.answers["allow"] == DEVICES
        assert first.answers["deny"] > 0
        assert first.slowest < 10
        assert await checks(service) == DEVICES
        overloaded = {"hook": "auth", "verdict": "deny", "reason": "overloaded"}
        assert await service.metric("companion_hook_decisions_total", **overloaded) == first.answers["deny"]
        second = Storm(service, DEVICES)
        await second.blow()
        assert second.answers == {"allow": DEVICES}
        assert await checks(service) == DEVICES


async def test_the_same_device_many_times(tmp_path: Path) -> None:
    """Who asks for the same at once, right or wrong, shares one check."""
    async with serving(tmp_path, password_workers=1, password_waiting=1) as service:
        await service.store.accounts.add(fleet(1, 10))
        for password, result in (("secret", "allow"), ("wrong", "deny")):
            answers = await asyncio.gather(*(service.login("device-0", password, f"c{number}") for number in range(20)))
            assert answers == [{"result": result}] * 20
        assert await checks(service) == 1
        assert await service.metric(RIGHT, outcome="wrong") == 1


async def test_callers_who_hang_up(tmp_path: Path) -> None:
    """What waits for a thread when its caller hangs up is not checked; the next caller need not wait for it."""
    async with serving(tmp_path, password_workers=1, log_decisions="none") as service:
        await service.store.accounts.add(fleet(30, 11))

        async def waiting() -> bool:
            return await service.metric("companion_password_checks") >= 15

        async with contextlib.AsyncExitStack() as stack:
            for number in range(20):
                body = f'{{"username":"device-{number}","password":"secret","clientid":"c"}}'.encode()
                connection = await stack.enter_async_context(connected(service.hooks_port))
                await connection.send(request("/mqtt/auth", body, key=HOOK_KEY))
            await eventually(waiting, 30, "they wait for a thread")
        assert (await service.login("device-25", "secret"))["result"] == "allow"

        async def at_rest() -> bool:
            return await service.metric("companion_password_checks") == 0

        await eventually(at_rest, 30, "nothing is checked any more")
        abandoned = await service.metric(RIGHT, outcome="abandoned")
        assert abandoned >= 10
        assert abandoned + await checks(service) <= 21


# Over replicas


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as server:
        yield server


async def test_every_replica_starts_anew(tmp_path: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart of all, what was verified is known by way of Redis, and not by who has another key or another password."""
    # A busy machine may take longer to answer than a login would wait for it; here nothing is to be given up.
    monkeypatch.setattr(production, "QuickProofs", functools.partial(QuickProofs, seconds=20.0))
    (tmp_path / "mongo").mkdir()
    async with mongo_server(tmp_path / "mongo") as mongo:
        settings: dict[str, Any] = {
            **settings_of(mongo.url, redis.url),
            "credential_key": KEY,
            "password_deadline": 5.0,
        }
        settings |= {"hooks_deadline": 10.0, "log_decisions": "none"}
        async with serving(tmp_path / "one", **settings) as service:
            await service.store.accounts.add(fleet(5, 4))
            await Storm(service, 5).blow()
            assert await checks(service) == 5

            async def shared() -> bool:
                return len(await _proofs(service)) == 5

            await eventually(shared, what="all are shared")
        async with serving(tmp_path / "two", **settings) as two, serving(tmp_path / "three", **settings) as three:
            for service in (two, three):
                await Storm(service, 5).blow()
                assert await checks(service) == 0
                assert await service.metric("companion_credential_proofs_total", outcome="hit") == 5
            await two.store.accounts.set_password("device-0", fleet(1, 4)[0].password_hash)

            async def anew() -> bool:
                await three.login("device-0", "secret")
                return await checks(three) == 1

            await eventually(anew, what="the new password is checked")
            assert await three.login("device-1", "wrong") == {"result": "deny"}
        async with serving(tmp_path / "four", **(settings | {"credential_key": KEY[::-1]})) as four:
            assert (await four.login("device-1", "secret"))["result"] == "allow"
            assert await checks(four) == 1


async def _proofs(service: Service) -> list[bytes]:
    found: list[bytes] = await service.store._redis.redis.keys("*{proof:*")  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_without_redis(tmp_path: Path, redis: RedisServer, how: str) -> None:
    """With Redis dead or silent everybody gets in, and none of them waits for it for long; what is remembered goes on serving."""
    (tmp_path / "mongo").mkdir()
    async with mongo_server(tmp_path / "mongo") as mongo:
        settings: dict[str, Any] = {
            **settings_of(mongo.url, redis.url),
            "password_deadline": 15.0,
            "hooks_deadline": 20.0,
        }
        async with serving(tmp_path / "one", **settings) as service:
            await service.store.accounts.add(fleet(20, 4))
            await Storm(service, 1).blow()
            getattr(redis, how)()
            storm = Storm(service, 20)
            await storm.blow()
            assert storm.answers == {"allow": 20}
            assert storm.slowest < 15
            assert await checks(service) == 20
            assert await service.metric("companion_credential_proofs_total", outcome="away") > 0
            if how == "freeze":
                redis.thaw()
