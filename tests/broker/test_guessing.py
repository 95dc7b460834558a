"""Who guesses over HTTP: locked out on every replica and beyond a restart, and banned at the broker where that is asked for."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.eventually import eventually
from tests.support.mongo import mongo_server
from tests.support.production import settings_of
from tests.support.redis import redis_server
from tests.support.service import Service, account_of, serving
from tests.support.traces import decisions
from tests.support.waiting import wait_until

LIMITS: dict[str, Any] = {"throttle_failures": 3, "throttle_seconds": 30.0, "credential_refused_seconds": 0}


async def attempt(
    service: Service, username: str, password: str, peer_host: str = "10.0.0.1", client: str = "c1"
) -> bool:
    fields = {"username": username, "password": password, "clientid": client, "peerhost": peer_host}
    return bool((await service.ask("auth", fields))["result"] == "allow")


async def guess(service: Service, username: str, peer_host: str = "10.0.0.1", times: int = 3) -> None:
    for number in range(times):
        assert not await attempt(service, username, f"guess-{number}", peer_host)


async def test_locked_out_beyond_a_restart(tmp_path: Path, logged: io.StringIO) -> None:
    """A name that exists and one that does not are locked out alike, with a reason; a new process knows it before it serves."""
    async with serving(tmp_path, **LIMITS) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        for name in ("alice", "nobody"):
            await guess(service, name)
            assert not await attempt(service, name, "secret")
            assert await attempt(service, "alice", "secret", "10.0.0.2")
        reasons = [line["reason"] for line in decisions(logged)]
        assert reasons == [
            *["wrong_password"] * 3,
            "throttled",
            "password",
            *["unknown_user"] * 3,
            "throttled",
            "password",
        ]
        first, second = (line for line in decisions(logged) if line["reason"] == "throttled")
        assert first["detail"][:30] == second["detail"][:30] == "locked out for the 1. time, un"
        assert await service.metric("companion_lockouts_total", scope="account") == 2
        assert await service.metric("companion_locked_out") == 2
    async with serving(tmp_path, **LIMITS) as service:
        assert not await attempt(service, "alice", "secret")
        (alice,) = [one for one in await service.store.lockouts.active(10) if one.target.username == "alice"]
        assert await service.store.lockouts.lift(alice.target.key)

        async def let_in() -> bool:
            return await attempt(service, "alice", "secret")

        await eventually(let_in, what="the lifted lock-out is heard of")


async def test_guessing_at_many_names(tmp_path: Path, logged: io.StringIO) -> None:
    """Too many failures at one address lock everybody out there, for its reason; a network that is exempt never is."""
    limits = LIMITS | {"throttle_address_failures": 5, "throttle_exempt": ("192.168.0.0/16",)}
    async with serving(tmp_path, **limits) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        for number in range(5):
            await guess(service, f"name-{number}", "2001:db8::1", 1)
            await guess(service, f"name-{number}", "192.168.7.7", 1)
        assert not await attempt(service, "alice", "secret", "2001:db8::2")
        assert decisions(logged)[-1]["reason"] == "address_throttled"
        assert await attempt(service, "alice", "secret", "192.168.7.7")
        assert await service.metric("companion_lockouts_total", scope="address") == 1


async def test_flapping(tmp_path: Path, logged: io.StringIO) -> None:
    """A client that connects more often than it may is refused for that; another of the same user is not."""
    async with serving(tmp_path, flapping_connects=3) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        assert [await attempt(service, "alice", "secret") for _ in range(5)] == [True] * 3 + [False] * 2
        assert decisions(logged)[-1]["reason"] == "flapping"
        assert await attempt(service, "alice", "secret", client="c2")


async def test_over_replicas(tmp_path: Path) -> None:
    """Replicas count together and lock out together; with Redis gone each goes on alone."""
    (tmp_path / "mongo").mkdir()
    async with mongo_server(tmp_path / "mongo") as mongo, redis_server(tmp_path / "redis") as redis:
        settings = {**settings_of(mongo.url, redis.url), **LIMITS, "hooks_deadline": 10.0}
        async with serving(tmp_path / "1", **settings) as one, serving(tmp_path / "2", **settings) as two:
            await one.store.accounts.add([account_of("alice", "secret"), account_of("bob", "secret")])
            await guess(one, "alice", times=2)
            await guess(two, "alice", times=1)
            assert not await attempt(two, "alice", "secret")

            async def heard() -> bool:
                return await one.metric("companion_locked_out") == 1

            await eventually(heard, what="the other replica hears of it")
            assert not await attempt(one, "alice", "secret")
            async with serving(tmp_path / "3", **settings) as three:
                assert not await attempt(three, "alice", "secret")
            redis.kill()
            await guess(one, "bob")
            assert not await attempt(one, "bob", "secret")
            assert await attempt(two, "bob", "secret")
            assert not await attempt(two, "alice", "secret")


class Emqx:
    """The part of EMQX's REST API that bans; answers as it is told to."""

    def __init__(self) -> None:
        self.bans: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.answer: tuple[int, dict[str, str]] = (200, {})
        self.pause = 0.0

    async def ban(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers["Authorization"])
        self.bans.append(await request.json())
        await asyncio.sleep(self.pause)
        status, body = self.answer
        return web.json_response(body, status=status)


@contextlib.asynccontextmanager
async def running_emqx() -> AsyncIterator[tuple[Emqx, str]]:
    emqx = Emqx()
    app = web.Application()
    app.router.add_post("/api/v5/banned", emqx.ban)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield emqx, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


BANS: dict[str, Any] = LIMITS | {"throttle_ban_after": 2, "emqx_api_key": "key", "emqx_api_secret": "secret"}


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, {}, "done"),
        (400, {"code": "ALREADY_EXISTS"}, "done"),
        (400, {"code": "BAD"}, "failed"),
        (503, {}, "failed"),
    ],
)
async def test_banned_at_the_broker(tmp_path: Path, status: int, body: dict[str, str], outcome: str) -> None:
    """From the lock-out on that the setting names, the address is banned until the lock-out ends; a refusal is counted."""
    async with running_emqx() as (emqx, url), serving(tmp_path, **BANS, emqx_url=url) as service:
        emqx.answer = (status, body)
        await guess(service, "alice", "2001:db8::7")
        assert await service.metric("companion_lockouts_total", scope="account") == 1
        await service.store._database.write(  # type: ignore[attr-defined]
            lambda connection: connection.execute(
                "UPDATE lockouts SET until = ?, number = number + 1", (int(time.time() * 1000) - 1,)
            )
        )
        service.running.store.counters._windows.clear()  # type: ignore[attr-defined]

        async def listened_to() -> bool:
            return await service.metric("companion_locked_out") == 0

        await eventually(listened_to, what="the first lock-out has ended")
        assert not emqx.bans
        await guess(service, "alice", "2001:db8::7")
        (lockout,) = await service.store.lockouts.active(10)

        async def settled() -> bool:
            return await service.metric("companion_bans_total", outcome=outcome) == 1

        await eventually(settled, what=f"the ban is {outcome}")
        ban = emqx.bans[0]
        assert all(again == ban for again in emqx.bans)
        assert (ban["as"], ban["who"]) == ("peerhost", "2001:db8::7")
        assert datetime.fromisoformat(ban["until"]).timestamp() == lockout.until // 1000
        assert set(emqx.keys) == {f"Basic {base64.b64encode(b'key:secret').decode()}"}


async def test_a_broker_that_is_slow(tmp_path: Path) -> None:
    """A ban that takes too long is given up, and delays nobody."""
    async with running_emqx() as (emqx, url):
        emqx.pause = 60.0
        settings = BANS | {"throttle_ban_after": 1, "emqx_timeout": 0.2, "emqx_url": url}
        async with serving(tmp_path, **settings) as service:
            await guess(service, "alice")
            await wait_until(lambda: emqx.bans, 20, "the ban is asked for")

            async def failed() -> bool:
                return await service.metric("companion_bans_total", outcome="failed") == 1

            await eventually(failed, what="the ban is given up")
