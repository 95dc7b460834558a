"""Revocations from the request to the last kick: over real HTTP, against the stand-in of EMQX's REST API."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from companion.core.revocations import Cause, Revocation, Step, kick_of
from companion.emqx_api import PAGE
from companion.settings import Role
from maintenance import revoker
from tests.support.emqx import Emqx, Fault, options
from tests.support.entities import session
from tests.support.eventually import eventually
from tests.support.jwts import token
from tests.support.service import OPS_KEY, Service, account_of, serving

CACHES = ["POST /authentication/node_cache/reset", "POST /authorization/node_cache/reset"]
SETTLE = 0.3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon, and show at once what waits."""
    monkeypatch.setattr(revoker, "_PAUSE", (0.02, 0.1))
    monkeypatch.setattr(revoker, "_GAUGE_SECONDS", 0.05)


@pytest.fixture
async def emqx() -> AsyncIterator[Emqx]:
    server = Emqx()
    async with server.serving():
        yield server


@contextlib.asynccontextmanager
async def at_work(folder: Path, url: str, role: Role = Role.MAINTENANCE, **more: Any) -> AsyncIterator[Service]:
    values = {"revocation_settle": SETTLE, "revocation_lease": 2.0, **options(url), **more}
    async with serving(folder, role, **values) as service:
        yield service


async def ask(service: Service, method: str, path: str, body: Any = None, key: str = OPS_KEY) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with service.http.request(method, service.ops + path, json=body, headers=headers) as response:
        return response.status, await response.json()


async def revoke(service: Service, **fields: Any) -> str:
    status, answer = await ask(service, "POST", "/revocations", fields)
    assert status == 202, answer
    assert answer["state"] == "waiting"
    return str(answer["id"])


async def done(service: Service, revocation_id: str) -> Revocation:
    """Wait until nothing is left to do."""

    async def there() -> Revocation | None:
        found = await service.store.revocations.get(revocation_id)
        return found if found is not None and not found.waiting else None

    return await eventually(there, 30, "all is done")


async def audits(service: Service) -> Sequence[tuple[str, str, str]]:
    records = (await service.store.audits.latest(100))[::-1]
    return [(one.verdict, one.reason, one.rule) for one in records if one.kind == "revocation"]


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


async def test_still_connected(tmp_path: Path, emqx: Emqx) -> None:
    """Whoever is connected at the second look is kicked until nobody is; only then it is done."""
    emqx.connect("a", "alice", stubborn=3)
    async with at_work(tmp_path, emqx.url) as service:
        one = await revoke(service, target="account", name="alice")
        await done(service, one)
        assert emqx.kicked == ["a"] * 4
        assert await service.metric("companion_revocation_failures_total", step="check") == 3


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


async def test_without_the_api(tmp_path: Path) -> None:
    """Where no API is named the hooks refuse all the same, and the record says that nobody was kicked."""
    async with serving(tmp_path, Role.MAINTENANCE, revocation_settle=0) as service:
        record = await done(service, await revoke(service, target="account", name="alice"))
    assert {step.detail for step in record.steps[1:]} == {"no emqx_url: nothing was asked of the broker"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "target"),
        ({"target": "planet", "name": "x"}, "target"),
        ({"target": "account"}, "name"),
        ({"target": "account", "name": 1}, "name"),
        ({"target": "account", "name": "x" * 65_536}, "name"),
        ({"target": "account", "name": "x", "seconds": 0}, "seconds"),
        ({"target": "account", "name": "x", "seconds": True}, "seconds"),
        ({"target": "account", "name": "x", "ban_seconds": -1}, "ban"),
        ({"target": "session", "name": "x", "ban_seconds": 1}, "ban"),
        ({"target": "account", "name": "x", "reason": "a\nb"}, "reason"),
        ({"target": "account", "name": "x", "planet": 1}, "planet"),
        ({"target": "account", "name": "x", "refuse": 0}, "refuse"),
        ({"target": "account", "name": "x", "refuse": False, "seconds": 5}, "refuse"),
        ({"target": "account", "token": "secret-token"}, "token"),
        ({"target": "token", "name": "x", "token": "secret-token"}, "token"),
        ({"target": "token", "token": ["secret-token"]}, "token"),
        ({"target": "token", "name": token()}, "name"),
        ({"target": "token", "name": "jti:"}, "name"),
        ([], "body"),
    ],
)
async def test_what_cannot_be_revoked(tmp_path: Path, body: Mapping[str, Any], field: str) -> None:
    """The answer names the field and what is allowed, never a token; nothing is written."""
    async with serving(tmp_path, Role.MAINTENANCE) as service:
        status, answer = await ask(service, "POST", "/revocations", body)
        assert (status, answer["field"]) == (422, field)
        assert "secret-token" not in answer["error"]
        assert token()[:20] not in answer["error"]
        assert await service.store.revocations.list() == []


async def test_other_answers(tmp_path: Path) -> None:
    """Without a key, of what there is not, of no JSON, of lists."""
    async with serving(tmp_path, Role.MAINTENANCE) as service:
        for method, path in (("GET", "/revocations"), ("POST", "/revocations"), ("POST", "/revocations/x/lift")):
            assert (await ask(service, method, path, key="wrong"))[0] == 401
        for method, path in (("GET", "/revocations/x"), ("POST", "/revocations/x/lift")):
            assert (await ask(service, method, path))[0] == 404
        headers = {"Authorization": f"Bearer {OPS_KEY}"}
        async with service.http.post(f"{service.ops}/revocations", data=b"{", headers=headers) as response:
            assert response.status == 400
        async with service.http.post(f"{service.ops}/revocations", data=b" " * 200_000, headers=headers) as response:
            assert response.status == 413
        one = await revoke(service, target="account", name="alice")
        _, answer = await ask(service, "GET", "/revocations?state=all&limit=5")
        assert [found["id"] for found in answer["revocations"]] == [one]
        for query in ("limit=0", "limit=x", "state=x"):
            assert (await ask(service, "GET", f"/revocations?{query}"))[0] == 422
