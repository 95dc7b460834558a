"""Revocations from the request to the last kick: in which order, who is kicked, and how they end."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from companion.core.revocations import Cause, Step, kick_of
from companion.emqx_api import PAGE
from companion.settings import Role
from tests.support.emqx import Emqx, emqx
from tests.support.entities import session
from tests.support.eventually import eventually
from tests.support.jwts import token
from tests.support.revoking import CACHES, SETTLE, ask, at_work, audits, done, quick, revoke
from tests.support.service import account_of

__all__ = ["emqx", "quick"]


async def test_the_order(tmp_path: Path, emqx: Emqx) -> None:
    """Caches before the ban, the ban before the kick, all pages of it, and one more look; each noted with its time."""
    for number in range(PAGE + 2):
        emqx.connect(f"a{number}", "alice", online=number % 2 == 0)
    emqx.connect("b", "bob")
    async with at_work(tmp_path, emqx.url) as service:
        one = await revoke(service, target="account", name="alice", ban_seconds=60, reason="stolen")
        record = await done(service, one)
        assert list(emqx.clients) == ["b"]
        assert emqx.lines == [
            *CACHES,
            "POST /banned",
            *["GET /clients"] * 2,
            *["POST /clients/kickout/bulk"] * 2,
            "GET /clients",
        ]
        (ban,) = emqx.banned.values()
        assert (ban["as"], ban["who"], ban["reason"]) == ("username", "alice", "stolen")
        assert [step.step for step in record.steps] == [Step.TOLD, Step.CACHES, Step.BAN, Step.KICK, Step.CHECK]
        assert [step.at for step in record.steps] == sorted(step.at for step in record.steps)
        assert record.steps[-1].at - record.steps[0].at >= SETTLE * 1000
        assert record.steps[3].detail == f"{PAGE + 2} clients"
        assert await audits(service) == [("deny", "told", one), ("deny", "done", one)]
        last = (await service.store.audits.latest(1))[0]
        assert last.username == "alice"
        assert f"kick {record.steps[3].took} ms ({PAGE + 2} clients)" in last.detail
        assert await service.metric("companion_revocation_to_kick_seconds_count") == 1
        assert await service.metric("companion_revocations_done_total", cause="revoked") == 1


async def test_who_is_kicked(tmp_path: Path, emqx: Emqx) -> None:
    """A session, a token and a client id: exactly the clients that belong to it."""
    for client_id in ("s1:a", "s1:b", "s2:a", "s3:a", "s4:a", "c/1"):
        emqx.connect(client_id, "u1")
    access = token(jti="j9")
    async with at_work(tmp_path, emqx.url) as service:

        async def put(*names: str, **more: Any) -> None:
            await service.store.sessions.put(session("u1", *names, expires_at=2**32, **more))

        await put("s1:a", session="s1")
        await put("s1:b", session="s1")
        await put("s1:gone", session="s1")
        await put("s2:a", session="s2", jti="j2")
        digest = f"sha256:{hashlib.sha256(access.encode()).hexdigest()}"
        await put("s3:a", session="s3", digest=digest)
        await done(service, await revoke(service, target="session", name="s1"))
        assert sorted(emqx.clients) == ["c/1", "s2:a", "s3:a", "s4:a"]
        await done(service, await revoke(service, target="token", name="j2"))
        assert sorted(emqx.clients) == ["c/1", "s3:a", "s4:a"]
        third = await done(service, await revoke(service, target="token", token=access))
        assert third.name == digest
        assert sorted(emqx.clients) == ["c/1", "s4:a"]
        await done(service, await revoke(service, target="client", name="c/1"))
        assert sorted(emqx.clients) == ["s4:a"]


async def test_still_connected(tmp_path: Path, emqx: Emqx) -> None:
    """Whoever is connected at the second look is kicked until nobody is; only then it is done."""
    emqx.connect("a", "alice", stubborn=3)
    async with at_work(tmp_path, emqx.url) as service:
        one = await revoke(service, target="account", name="alice")
        await done(service, one)
        assert emqx.kicked == ["a"] * 4
        assert await service.metric("companion_revocation_failures_total", step="check") == 3


async def test_lifted(tmp_path: Path, emqx: Emqx) -> None:
    """The ban is taken back; what was lifted before it was done is not done any more."""
    async with at_work(tmp_path, emqx.url) as service:
        one = await revoke(service, target="client", name="c", ban_seconds=60)
        await done(service, one)
        assert ("clientid", "c") in emqx.banned
        status, answer = await ask(service, "POST", f"/revocations/{one}/lift")
        assert (status, answer["next"]) == (202, "lifted")
        await done(service, one)
        assert emqx.banned == {}
        assert (await audits(service))[-2:] == [("allow", "lifted", one), ("allow", "done", one)]
        assert (await ask(service, "POST", f"/revocations/{one}/lift"))[0] == 200

        emqx.connect("d", "dora")
        emqx.fault = lambda _: web.Response(status=503)
        two = await revoke(service, target="account", name="dora")

        async def tried() -> bool:
            found = await service.store.revocations.get(two)
            return found is not None and found.attempts > 0

        await eventually(tried, what="it was tried")
        await ask(service, "POST", f"/revocations/{two}/lift")
        emqx.fault = None
        record = await done(service, two)
        assert [step.step for step in record.steps] == [Step.TOLD, Step.LIFTED, Step.UNBAN]
        assert list(emqx.clients) == ["d"]


async def test_its_time_is_over(tmp_path: Path, emqx: Emqx) -> None:
    """Whoever is connected after the end of a revocation has a right to be."""
    emqx.connect("a", "alice", stubborn=1)
    async with at_work(tmp_path, emqx.url, revocation_settle=2.5) as service:
        record = await done(service, await revoke(service, target="account", name="alice", seconds=1))
    assert emqx.kicked == ["a"]
    assert record.steps[-1].detail == "its time is over"


async def test_only_a_kick(tmp_path: Path, emqx: Emqx) -> None:
    """For another password the connected are kicked once, when all replicas know of it; who is offline keeps what waits for it."""
    emqx.connect("on", "alice")
    emqx.connect("off", "alice", online=False)
    kick = kick_of("alice", Cause.PASSWORD, "1", int(time.time() * 1000))
    async with at_work(tmp_path, emqx.url) as service:
        assert await service.store.revocations.add(kick)
        record = await done(service, kick.id)
        assert (await audits(service))[-1] == ("deny", "done", kick.id)
    assert list(emqx.clients) == ["off"]
    assert [step.step for step in record.steps] == [Step.TOLD, Step.CACHES, Step.KICK]
    assert record.steps[2].at - record.steps[0].at >= SETTLE * 1000


async def test_kicked_to_come_back(tmp_path: Path, emqx: Emqx) -> None:
    """Who is only to be kicked is refused by nobody, and can be lifted by nobody."""
    emqx.connect("a", "alice")
    async with at_work(tmp_path, emqx.url, Role.ALL) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        one = await revoke(service, target="account", name="alice", refuse=False)
        record = await done(service, one)
        assert emqx.kicked == ["a"]
        assert [step.step for step in record.steps] == [Step.TOLD, Step.CACHES, Step.KICK]
        assert (await service.login("alice", "secret"))["result"] == "allow"
        assert (await ask(service, "POST", f"/revocations/{one}/lift"))[0] == 404
