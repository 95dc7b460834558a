"""The hooks as EMQX 4.4 meets them: forms, words for what is missing, and answers by their status alone."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from pydantic import SecretStr

from broker_hooks import wire_v4
from companion.core.model import Allow, Deny, Reason
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from tests.support.eventually import eventually
from tests.support.jwts import SECRET, in_seconds, token
from tests.support.raw_http import Answer, exchange, request
from tests.support.service import HOOK_KEY, Service, account_of, serving
from tests.support.traces import decisions, only_trace

PASSWORD = "se cret&=+%é"


@pytest.fixture
async def hooks(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run hooks that give lists to newer brokers, with a few accounts and rules."""
    del logged
    async with serving(tmp_path, hooks_acl=True, token_secrets=(SecretStr(SECRET),), throttle_failures=3) as service:
        await service.store.accounts.add(
            [
                account_of("alice", PASSWORD),
                account_of("off", PASSWORD, disabled=True),
                account_of("late", PASSWORD, expires_at=1),
                account_of("undefined", PASSWORD),
            ]
        )
        await service.store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "a/+"))
        await service.store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "limited", frozenset({0})))
        await service.store.rules.add(Rule(EVERYONE, Effect.DENY, RuleAction.PUBLISH, "a/retained", retain=True))
        yield service


def form(**fields: str) -> bytes:
    """Write a form as the plugin does, in the order of its parameters."""
    return "&".join(f"{name}={quote_plus(value)}" for name, value in fields.items()).encode()


async def ask(hooks: Service, path: str, *, key: str = HOOK_KEY, **fields: str) -> Answer:
    """Ask as EMQX 4.4 does, and check what holds for every answer: 200 has no body that means "ignore" or a mountpoint."""
    encoded = request(path, form(**fields), key=key, content_type="application/x-www-form-urlencoded")
    answer = await exchange(hooks.hooks_port, encoded)
    if answer.status == 200:
        assert answer.body == b"allow"
    assert answer.body != b"ignore"
    return answer


async def status_of_login(
    hooks: Service, username: str, password: str, client_id: str = "c1", peer: str = "192.0.2.1"
) -> int:
    answer = await ask(hooks, "/v4/auth", clientid=client_id, username=username, password=password, peerhost=peer)
    return answer.status


async def status_of_access(hooks: Service, access: str, topic: str, username: str = "alice", **more: str) -> int:
    fields = {"access": access, "username": username, "clientid": "c1", "ipaddr": "192.0.2.1", "topic": topic, **more}
    return (await ask(hooks, "/v4/acl", **fields)).status


@pytest.mark.parametrize(
    ("login", "status", "reason"),
    [
        (("alice", PASSWORD), 200, "password"),
        (("alice", "wrong"), 401, "wrong_password"),
        (("nobody", PASSWORD), 401, "unknown_user"),
        (("off", PASSWORD), 403, "account_disabled"),
        (("late", PASSWORD), 403, "account_expired"),
        (("undefined", PASSWORD), 401, "no_credentials"),
        (("null", PASSWORD), 401, "no_credentials"),
        (("alice", "undefined"), 401, "no_credentials"),
        (("alice", "null"), 401, "no_credentials"),
        (("", ""), 401, "no_credentials"),
        (("${username}", PASSWORD), 400, "malformed"),
    ],
)
async def test_logins(hooks: Service, logged: io.StringIO, login: tuple[str, str], status: int, reason: str) -> None:
    """Every outcome of a login has its status, and leaves the trace that it leaves with other brokers."""
    assert await status_of_login(hooks, *login) == status
    trace = await only_trace(hooks, logged, "auth")
    assert trace.reason == reason
    assert PASSWORD not in logged.getvalue()


async def test_tokens(hooks: Service) -> None:
    """A token logs in by the same rules; an end that this broker cannot be told still refuses later questions."""
    assert await status_of_login(hooks, "u1", token(), "s1:1") == 200
    assert await status_of_access(hooks, "1", "u1/#", "u1", clientid="s1:1") == 200
    assert await status_of_access(hooks, "2", "u1/s1/x", "u1", clientid="s1:1") == 200
    assert await status_of_login(hooks, "u1", token(exp=in_seconds(-60)), "s1:1") == 401
    assert await status_of_login(hooks, "u2", token(), "s1:1") == 401
    assert await status_of_login(hooks, "u1", token(), "other") == 401


async def test_guessing(hooks: Service) -> None:
    """Who guesses too often is banned (429), with the right password as well; from another address it is right."""
    for _ in range(3):
        assert await status_of_login(hooks, "alice", "wrong") == 401
    assert await status_of_login(hooks, "alice", PASSWORD) == 429
    assert await status_of_login(hooks, "alice", PASSWORD, peer="198.51.100.7") == 200


@pytest.mark.parametrize(
    ("access", "status", "reason"),
    [
        (("1", "a/+"), 200, "rule"),
        (("1", "alice/#"), 200, "own_topic"),
        (("1", "a/#"), 403, "no_rule"),
        (("2", "a/b"), 200, "rule"),
        (("2", "b/b"), 403, "no_rule"),
        (("2", "limited"), 403, "no_rule"),
        (("2", "a/retained"), 403, "denied_by_rule"),
        (("2", "a/+"), 403, "invalid_topic"),
        (("2", "undefined"), 403, "no_rule"),
        (("3", "a/b"), 400, "malformed"),
        (("", "a/b"), 400, "malformed"),
    ],
)
async def test_publishes_and_subscriptions(
    hooks: Service, logged: io.StringIO, access: tuple[str, str], status: int, reason: str
) -> None:
    """Every outcome has its status. QoS and retain are not told: a rule limited to some of them allows nothing, and denies all."""
    assert await status_of_access(hooks, *access) == status
    assert (await only_trace(hooks, logged, "authz")).reason == reason


@pytest.mark.parametrize("username", ["undefined", "null", "nobody", "off"])
async def test_nobody_by_that_name(hooks: Service, username: str) -> None:
    """Who has no name, or one that may not connect, may do nothing."""
    assert await status_of_access(hooks, "2", "a/b", username) == 403


async def test_nobody_is_a_superuser(hooks: Service, logged: io.StringIO) -> None:
    """Always 403, which is only counted: no log line and no audit record for every login."""
    assert (await ask(hooks, "/v4/superuser", clientid="c1", username="alice")).status == 403
    labels = {"hook": "superuser", "verdict": "deny", "reason": "no_superuser"}
    assert await hooks.metric("companion_hook_decisions_total", **labels) == 1
    assert decisions(logged) == []


async def test_other_forms_of_the_question(hooks: Service) -> None:
    """GET with a query and POST with JSON, which the plugin can be set to, are understood."""
    query = form(clientid="c1", username="alice", password=PASSWORD).decode()
    answer = await exchange(hooks.hooks_port, request(f"/v4/auth?{query}", b"", key=HOOK_KEY, method="GET"))
    assert answer.status == 200
    body = json.dumps({"clientid": "c1", "username": "alice", "password": PASSWORD}).encode()
    answer = await exchange(hooks.hooks_port, request("/v4/auth", body, key=HOOK_KEY))
    assert (answer.status, answer.body) == (200, b"allow")
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/v4/auth", "/v4/acl", "/v4/superuser"])
async def test_without_the_key(hooks: Service, path: str) -> None:
    """401, which this broker takes for a refusal, whoever asks and whatever for."""
    for key in ("", "another-key-than-the-hooks-have"):
        answer = await ask(
            hooks, path, key=key, clientid="c1", username="alice", password=PASSWORD, access="2", topic="a/b"
        )
        assert answer.status == 401


@pytest.mark.parametrize("path", ["/v4", "/v4/", "/v4/authz", "/v4/auth/", "/mqtt/acl", "/mqtt/superuser", "/%764/x"])
async def test_unknown_paths(hooks: Service, path: str) -> None:
    """Where this broker might ask by mistake, nothing is answered with 200, which would let everybody in."""
    answer = await ask(hooks, path, clientid="c1", username="alice", password=PASSWORD, access="2", topic="a/b")
    assert answer.status == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_unknown_methods(hooks: Service, method: str) -> None:
    """Nor another method."""
    encoded = request("/v4/auth", form(username="alice", password=PASSWORD), key=HOOK_KEY, method=method)
    assert (await exchange(hooks.hooks_port, encoded)).status == 404


@pytest.mark.parametrize(
    "body",
    [
        b"username=%zz",
        b"username=a&username=b",
        b"\xff",
        b"username=%FF",
        b"{",
        b"username=a%00",
        b"x" * 70_000,
        b"&&",
        b"=",
    ],
)
@pytest.mark.parametrize("path", ["/v4/auth", "/v4/acl", "/v4/superuser"])
async def test_what_nobody_understands(hooks: Service, path: str, body: bytes) -> None:
    """A form that is none is refused, never with 200."""
    encoded = request(path, body, key=HOOK_KEY, content_type="application/x-www-form-urlencoded")
    answer = await exchange(hooks.hooks_port, encoded)
    assert answer.status in (400, 401, 403)


async def test_a_password_that_takes_too_long(tmp_path: Path, logged: io.StringIO) -> None:
    """More checks than can be waited for: busy (504), said before the broker's own time is over."""
    del logged
    limits: dict[str, Any] = {
        "password_workers": 1,
        "password_waiting": 1,
        "password_deadline": 0.05,
        "password_cost": 10,
    }
    async with serving(tmp_path, **limits) as hooks:
        statuses = await asyncio.gather(*(status_of_login(hooks, f"nobody-{one}", "x") for one in range(12)))
        assert 504 in statuses
        assert set(statuses) <= {401, 504}


async def test_no_list_is_made_for_a_status(hooks: Service) -> None:
    """One hop is for brokers that read bodies."""
    assert await status_of_login(hooks, "alice", PASSWORD) == 200
    assert all(value == 0 for _, value in await hooks.samples("companion_acl_lists_total"))


async def test_both_dialects_see_the_same(hooks: Service) -> None:
    """A change of rules is felt by both."""
    assert await status_of_access(hooks, "2", "new") == 403
    await hooks.store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "new"))

    async def known() -> bool:
        return await status_of_access(hooks, "2", "new") == 200

    await eventually(known, what="the new rule")
    assert await hooks.may("alice", "publish", "new")


@pytest.mark.parametrize("reason", Reason)
def test_every_refusal_is_one(reason: Reason) -> None:
    """Whatever the reason, a denial has a status that the broker knows for one; what is our fault is no ban and no bad password."""
    status = wire_v4.answer(Deny(reason)).status
    assert status in {400, 401, 403, 404, 429, 503, 504}
    if reason in {Reason.STORE_AWAY, Reason.INTERNAL, Reason.DEADLINE, Reason.OVERLOADED}:
        assert status in {503, 504}
    assert wire_v4.answer(Allow(reason)).status == 200
