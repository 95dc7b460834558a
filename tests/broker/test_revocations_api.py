"""Revocations while EMQX's REST API is away, fails, is slow, refuses, is an old one, or is not there at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiohttp import web

from companion.core.revocations import Step
from companion.settings import Role
from tests.support.emqx import Emqx, Fault, emqx
from tests.support.eventually import eventually
from tests.support.revoking import ask, at_work, done, quick, revoke
from tests.support.service import account_of, serving

__all__ = ["emqx", "quick"]


async def test_the_api_is_down(tmp_path: Path, emqx: Emqx) -> None:
    """Nobody can be kicked: it waits, is told by the metrics and the record, and the hooks refuse; once it is back all is done."""
    emqx.connect("a", "alice")
    emqx.fault = lambda _: web.Response(status=503)
    async with at_work(tmp_path, emqx.url, Role.ALL) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        one = await revoke(service, target="account", name="alice")

        async def refused() -> bool:
            return bool((await service.login("alice", "secret"))["result"] == "deny")

        await eventually(refused, what="the hooks refuse")

        async def told() -> bool:
            record = await service.store.revocations.get(one)
            assert record is not None
            waiting = await service.metric("companion_revocations_waiting")
            oldest = await service.metric("companion_revocations_oldest_seconds")
            return record.attempts > 2 and "503" in record.error and waiting == 1 and oldest > 0.2

        await eventually(told, 30, "it is told that it waits")
        assert emqx.kicked == []
        status, shown = await ask(service, "GET", f"/revocations/{one}")
        assert (status, shown["state"], shown["next"]) == (200, "waiting", "caches")
        assert await refused()
        emqx.fault = None
        await done(service, one)
        assert emqx.kicked == ["a"]

        async def none_waits() -> bool:
            return await service.metric("companion_revocations_waiting") == 0

        await eventually(none_waits, what="nothing waits any more")
        assert await service.metric("companion_revocation_failures_total", step="caches") >= 3


def failing(*prefixes: str, times: int) -> Fault:
    """Fail so often at every kind of request."""
    left = dict.fromkeys(prefixes, times)

    def fault(asked: Any) -> web.Response | float | None:
        for prefix in prefixes:
            if str(asked).startswith(prefix) and left[prefix]:
                left[prefix] -= 1
                return web.Response(status=500) if left[prefix] % 2 else 0
        return None

    return fault


async def test_it_fails_again_and_again(tmp_path: Path, emqx: Emqx) -> None:
    """Every kind of request fails several times over: the order stays, and nothing is left out."""
    for number in range(3):
        emqx.connect(f"a{number}", "alice")
    kinds = ("POST /authentication", "POST /authorization", "POST /banned", "GET /clients", "POST /clients/kickout")
    emqx.fault = failing(*kinds, times=5)
    async with at_work(tmp_path, emqx.url) as service:
        record = await done(service, await revoke(service, target="account", name="alice", ban_seconds=60))
    assert emqx.clients == {}
    assert [step.step for step in record.steps] == [Step.TOLD, Step.CACHES, Step.BAN, Step.KICK, Step.CHECK]
    where = {kind: [n for n, line in enumerate(emqx.lines) if line.startswith(kind)] for kind in kinds}
    caches, bans = where[kinds[0]] + where[kinds[1]], where[kinds[2]]
    assert max(caches) < min(bans)
    assert max(bans) < min(where[kinds[3]]) < min(where[kinds[4]])
    assert record.attempts == 0


async def test_a_slow_api(tmp_path: Path, emqx: Emqx) -> None:
    """An API that answers too late is asked again; what it did meanwhile is no error."""
    emqx.connect("a", "alice")
    emqx.faults += [3.0, 3.0]
    async with at_work(tmp_path, emqx.url, emqx_timeout=1.0) as service:
        await done(service, await revoke(service, target="account", name="alice"))
    assert emqx.kicked == ["a"]


async def test_an_old_emqx(tmp_path: Path) -> None:
    """A version without caches of its nodes, kicks of many and word of further pages does as well."""
    emqx = Emqx(bulk=False, node_caches=False)
    emqx.says_more = False
    for number in range(5):
        emqx.connect(f"a{number}", "alice")
    async with emqx.serving(), at_work(tmp_path, emqx.url) as service:
        record = await done(service, await revoke(service, target="account", name="alice"))
    assert emqx.clients == {}
    assert record.steps[1].detail == "0 caches"


async def test_a_ban_that_is_refused(tmp_path: Path, emqx: Emqx) -> None:
    """A ban that EMQX refuses for good, or has already, keeps nobody connected; which it was is noted."""
    emqx.connect("a", "alice")
    emqx.connect("b", "bob")
    emqx.banned["username", "bob"] = {"as": "username", "who": "bob"}

    def fault(asked: Any) -> web.Response | None:
        refused = str(asked) == "POST /banned" and asked.body["who"] == "alice"
        return web.json_response({"code": "BAD_REQUEST"}, status=400) if refused else None

    emqx.fault = fault
    async with at_work(tmp_path, emqx.url) as service:
        alice = await done(service, await revoke(service, target="account", name="alice", ban_seconds=60))
        bob = await done(service, await revoke(service, target="account", name="bob", ban_seconds=60))
    assert emqx.clients == {}
    assert alice.steps[2].detail == "refused: emqx: ban: HTTP 400 BAD_REQUEST"
    assert bob.steps[2].detail == "there was a ban already"


async def test_without_the_api(tmp_path: Path) -> None:
    """Where no API is named the hooks refuse all the same, and the record says that nobody was kicked."""
    async with serving(tmp_path, Role.MAINTENANCE, revocation_settle=0) as service:
        record = await done(service, await revoke(service, target="account", name="alice"))
    assert {step.detail for step in record.steps[1:]} == {"no emqx_url: nothing was asked of the broker"}
