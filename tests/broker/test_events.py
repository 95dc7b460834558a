"""The broker's events over HTTP: taken durably, counted once, refused so that EMQX does what is right."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from broker_hooks import events as events_module
from companion.core.errors import Transient
from tests.support.eventually import eventually
from tests.support.service import HOOK_KEY, OPS_KEY, Service, account_of, serving

KEY = {"Authorization": f"Bearer {HOOK_KEY}"}
NOW = int(time.time() * 1000)


def connected(client_id: str = "dev-1", at: int = NOW, username: str = "alice", **more: Any) -> dict[str, Any]:
    return {
        "event": "client.connected",
        "clientid": client_id,
        "username": username,
        "peername": "10.0.0.1:1234",
        "proto_ver": 5,
        "keepalive": 60,
        "clean_start": True,
        "connected_at": at,
        "timestamp": at + 1,
        "node": "emqx@1",
    } | more


def disconnected(client_id: str = "dev-1", began: int = NOW, reason: str = "normal", **more: Any) -> dict[str, Any]:
    name = "client.disconnected"
    return (
        connected(client_id, began, event=name, reason=reason, disconnected_at=began + 50, timestamp=began + 51) | more
    )


async def tell(service: Service, body: Any, **more: Any) -> tuple[int, Mapping[str, Any]]:
    """Send events as EMQX's HTTP action does."""
    request = {"data": body if isinstance(body, bytes) else json.dumps(body).encode(), "headers": KEY} | more
    async with service.http.post(f"{service.hooks}/emqx/events", **request) as response:
        assert response.content_type == "application/json"
        return response.status, await response.json()


async def presence(service: Service, **query: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {OPS_KEY}"}
    async with service.http.get(f"{service.ops}/presence", params=query, headers=headers) as response:
        return response.status, await response.json()


async def online(service: Service, **query: str) -> Mapping[str, bool]:
    status, body = await presence(service, **query)
    assert status == 200
    return {one["client_id"]: one["online"] for one in body["clients"]}


async def test_connected_and_gone(hooks: Service) -> None:
    """Who connects is there, under the principal of the account, until the end of that connection is told."""
    await hooks.store.accounts.add([account_of("alice", "secret", principal="p1")])
    assert await tell(hooks, connected()) == (200, {"new": 1, "known": 0, "ignored": 0})
    assert await tell(hooks, connected("dev-2", username="bob")) == (200, {"new": 1, "known": 0, "ignored": 0})
    assert await online(hooks, principal="p1") == {"dev-1": True}
    assert await tell(hooks, connected()) == (200, {"new": 0, "known": 1, "ignored": 0})
    newer = connected(at=NOW + 100, peername="10.0.0.1:9")
    status, answer = await tell(hooks, [newer, disconnected(reason="takenover"), {"event": "alarm.activated"}])
    assert (status, answer) == (200, {"new": 2, "known": 0, "ignored": 1})
    assert await online(hooks) == {"dev-1": True, "dev-2": True}
    await tell(hooks, disconnected(began=NOW + 100, reason="keepalive_timeout", peername="10.0.0.1:9"))
    status, body = await presence(hooks, client="dev-1")
    (found,) = body["clients"]
    assert (found["online"], found["reason"], found["principal"]) == (False, "keepalive_timeout", "p1")
    assert await online(hooks, state="online") == {"dev-2": True}
    assert await hooks.metric("companion_broker_events_total", outcome="new") == 5
    assert await hooks.metric("companion_broker_events_total", outcome="known") == 1


async def test_pages(hooks: Service) -> None:
    """A page tells where the next begins; what is asked for wrongly is told."""
    await tell(hooks, [connected(f"dev-{number}") for number in range(3)])
    _, body = await presence(hooks, limit="2")
    assert ([one["client_id"] for one in body["clients"]], body["next"]) == (["dev-0", "dev-1"], "dev-1")
    _, body = await presence(hooks, limit="2", after="dev-1")
    assert ([one["client_id"] for one in body["clients"]], body["next"]) == (["dev-2"], None)
    for field, value in (("state", "asleep"), ("limit", "0"), ("limit", "1e3"), ("page", "1")):
        status, body = await presence(hooks, **{field: value})
        assert (status, body["field"]) == (422, field)
    async with hooks.http.get(f"{hooks.ops}/presence") as response:
        assert response.status == 401


async def test_what_is_refused(hooks: Service) -> None:
    """Without the key, with another method, malformed or too long: a status that EMQX does not repeat, with a line about it."""
    status, _ = await tell(hooks, connected(), headers={})
    assert status == 401
    for body, words in ((b"{", "body"), ({"event": "client.connected"}, "clientid"), ([1], "events[0].event")):
        status, answer = await tell(hooks, body)
        assert status == 400
        assert words in answer["error"]
    status, answer = await tell(hooks, connected(payload="x" * 70_000))
    assert status == 413
    async with hooks.http.get(f"{hooks.hooks}/emqx/events", headers=KEY) as response:
        assert response.status == 405
    assert await online(hooks) == {}
    assert await hooks.metric("companion_broker_events_total", outcome="malformed") == 5
    # The connection is still good for the next.
    assert (await tell(hooks, connected()))[0] == 200


async def test_a_store_that_is_away(hooks: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be taken is answered with 503, so that EMQX sends it again; then it is taken once."""

    async def away(*_: Any) -> Any:
        raise Transient("store: away")

    with monkeypatch.context() as patch:
        patch.setattr(type(hooks.running.store.presence), "take", away)
        status, answer = await tell(hooks, connected())
        assert (status, answer) == (503, {"error": "store: away"})
    assert await tell(hooks, connected()) == (200, {"new": 1, "known": 0, "ignored": 0})
    assert await hooks.metric("companion_broker_events_total", outcome="not_taken") == 1


async def test_too_many_wait(hooks: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than fits is answered with 429, which EMQX repeats."""
    monkeypatch.setattr(events_module, "_WAITING", 1)
    status, answer = await tell(hooks, [connected(), connected("dev-2")])
    assert (status, answer) == (429, {"error": "more than 1 events wait"})
    assert (await tell(hooks, connected()))[0] == 200


async def test_many_at_once(hooks: Service) -> None:
    """Requests that come at once are written together, and each is answered for its own events."""
    answers = await asyncio.gather(
        *(tell(hooks, [connected(f"dev-{n}"), disconnected("x", NOW + n)]) for n in range(50))
    )
    assert all(answer == (200, {"new": 2, "known": 0, "ignored": 0}) for answer in answers)
    assert len(await online(hooks, limit="1000", state="online")) == 50


async def test_refusals_by_the_broker_are_recorded(hooks: Service) -> None:
    """A CONNACK that refuses, and a denial of another source than the hooks, are audited, each once."""
    refused = {
        "event": "client.connack",
        "reason_code": "banned",
        "clientid": "c",
        "peername": "1.2.3.4:5",
        "timestamp": 1,
    }
    denied = {
        "event": "client.check_authz_complete",
        "result": "deny",
        "authz_source": "file",
        "action": "publish",
        "topic": "t",
        "clientid": "c",
        "username": "alice",
        "timestamp": 2,
    }
    for _ in range(2):
        await tell(hooks, [refused, denied, denied | {"authz_source": "http"}, refused | {"reason_code": "success"}])
    first, second = await hooks.audits(2)
    assert (first.kind, first.reason, first.action, first.peer_host) == ("broker", "banned", "connect", "1.2.3.4")
    assert (second.reason, second.action, second.topic, second.source) == ("deny", "publish", "t", "broker:file")


async def test_at_the_command_line(tmp_path: Path) -> None:
    """`companion presence` shows the same."""
    async with serving(tmp_path) as service:
        await tell(service, [connected(), connected("dev-2"), disconnected("dev-2"), connected("x", username="bob")])

        async def there() -> bool:
            return len(await service.store.presence.list()) == 3

        await eventually(there)

    async def companion(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "companion.cli", "presence", *arguments),
            env={"COMPANION_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONUTF8": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    code, text = await companion("--principal", "alice")
    assert code == 0
    assert text.splitlines()[0].rstrip() == "2 clients, 1 online"
    assert [line.split()[0] for line in text.splitlines() if line.strip().startswith("dev-")] == ["dev-1", "dev-2"]
    code, text = await companion("--client", "x", "--json")
    assert [one["principal"] for one in json.loads(text)] == ["bob"]
    code, text = await companion("--state", "asleep")
    assert (code, text) == (1, "companion: state: 'asleep' is not allowed; one of online, offline, any\n")
