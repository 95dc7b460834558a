"""Refusals at a real broker: what a client sees, and the one reason in the log, the audit table and the metric."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from companion.core.model import Kind
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from companion.embedded import EmbeddedBroker, EmbeddedBrokerConfig
from tests.broker.embedded_client import client
from tests.support.service import HOOK_KEY, Service, account_of, serving

TOKEN_SECRET = "a token secret of the tests, 32 bytes and more"
NOT_AUTHORIZED = 5
REFUSED = 0x80


@dataclass(frozen=True, slots=True)
class Scene:
    """A broker that asks a service."""

    service: Service
    port: int

    async def assert_recorded(self, logs: list[Any], hook: str, reason: str, topic: str = "") -> None:
        """Assert that the newest decision is in the log, in the audit table and in the metric, with this reason."""
        line = [entry for entry in logs if entry["event"] == "decision"][-1]
        assert (line["hook"], line["verdict"], line["reason"], line.get("topic", "")) == (hook, "deny", reason, topic)
        metric = await self.service.metric("companion_hook_decisions_total", hook=hook, verdict="deny", reason=reason)
        assert metric >= 1
        decisions = sum(entry["event"] == "decision" and not allowed_access(entry) for entry in logs)
        record = (await self.service.audits(decisions))[-1]
        assert (record.kind, record.verdict, record.reason, record.topic) == (hook, "deny", reason, topic)


def allowed_access(entry: Any) -> bool:
    """Tell whether a decision is one of those that are not audited."""
    return bool(entry["hook"] == "authz" and entry["verdict"] == "allow")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """Run a broker and a service with four accounts."""
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(serving(tmp_path, token_secrets=(SecretStr(TOKEN_SECRET),)))
        await service.store.accounts.add(
            [
                account_of("alice", "secret", kind=Kind.USER),
                account_of("bob", "secret"),
                account_of("carol", "secret", disabled=True),
                account_of("dave", "secret", expires_at=int(time.time()) - 1),
            ]
        )
        config = EmbeddedBrokerConfig(port=0, hooks_url=service.hooks, hook_key=HOOK_KEY)
        broker = await stack.enter_async_context(EmbeddedBroker(config))
        yield Scene(service, broker.port)


def token(**changes: Any) -> str:
    """Return an access token of the principal u1 in the session s1."""
    claims = {"type": "access", "cid": "c1", "uid": "u1", "session": "s1", "exp": int(time.time()) + 600} | changes
    return jwt.encode(claims, TOKEN_SECRET, "HS256")


@pytest.mark.parametrize(
    ("username", "password", "reason"),
    [
        ("alice", "wrong", "wrong_password"),
        ("nobody", "secret", "unknown_user"),
        ("carol", "secret", "account_disabled"),
        ("dave", "secret", "account_expired"),
    ],
)
async def test_a_refused_password_login(scene: Scene, username: str, password: str, reason: str) -> None:
    """A login with a wrong password, an unknown user, a disabled or an expired account gets CONNACK 5 and its reason."""
    with capture_logs() as logs:
        async with client(scene.port) as mqtt:
            assert await mqtt.connect("device", username, password) == NOT_AUTHORIZED
        await scene.assert_recorded(logs, "auth", reason)


@pytest.mark.parametrize(
    ("changes", "client_id", "reason"),
    [
        ({"exp": int(time.time()) - 3600}, "s1:x", "token_expired"),
        ({"type": "refresh"}, "s1:x", "token_claims"),
        ({"uid": "u2"}, "s1:x", "wrong_principal"),
        ({}, "s2:x", "wrong_client_id"),
    ],
)
async def test_a_refused_token_login(scene: Scene, changes: dict[str, Any], client_id: str, reason: str) -> None:
    """A login with an expired token, a refresh token, somebody else's token or session gets CONNACK 5 and its reason."""
    with capture_logs() as logs:
        async with client(scene.port) as mqtt:
            assert await mqtt.connect(client_id, "u1", token(**changes)) == NOT_AUTHORIZED
        await scene.assert_recorded(logs, "auth", reason)


@pytest.mark.parametrize("topic_filter", ["#", "+/#", "+", "bob/#", "bob/thing/1/devices", "$SYS/#", "alice/+/../#"])
async def test_a_refused_subscription(scene: Scene, topic_filter: str) -> None:
    """A subscription to everything, to another's topics or to the broker's own gets SUBACK 0x80; the own one still works."""
    with capture_logs() as logs:
        async with client(scene.port) as mqtt:
            assert await mqtt.connect("laptop", "alice", "secret") == 0
            allowed = topic_filter.startswith("alice/")
            assert await mqtt.subscribe((topic_filter, 1)) == ([1] if allowed else [REFUSED])
            if not allowed:
                await scene.assert_recorded(logs, "authz", "no_rule", topic_filter)
            assert await mqtt.subscribe(("alice/#", 1)) == [1]


async def test_a_refused_publish(scene: Scene) -> None:
    """A publish to another's topic reaches nobody, a permitted one does, and a deny rule beats the permission."""
    rules = scene.service.store.rules
    await rules.add(Rule("account:bob", Effect.ALLOW, RuleAction.PUBLISH, "alice/from/${username}"))
    denied = await rules.add(Rule(EVERYONE, Effect.DENY, RuleAction.PUBLISH, "+/from/+", qos=frozenset({1})))
    async with client(scene.port) as alice, client(scene.port) as bob:
        assert await alice.connect("laptop", "alice", "secret") == 0
        assert await alice.subscribe(("alice/#", 1)) == [1]
        assert await bob.connect("device", "bob", "secret") == 0
        with capture_logs() as logs:
            await bob.publish("alice/secret", b"no")
            await bob.publish("alice/from/bob", b"never", qos=1)
            await bob.publish("alice/from/bob", b"yes")
            assert (await alice.message()).payload == b"yes"
        refused = [
            (entry["topic"], entry["reason"], entry.get("rule")) for entry in logs if entry.get("verdict") == "deny"
        ]
        assert refused == [("alice/secret", "no_rule", None), ("alice/from/bob", "denied_by_rule", denied.id)]
        records = [record for record in await scene.service.audits(4) if record.kind == "authz"]
        assert [(record.topic, record.reason) for record in records] == [
            ("alice/secret", "no_rule"),
            ("alice/from/bob", "denied_by_rule"),
        ]


async def test_a_platform_session_owns_its_topics(scene: Scene) -> None:
    """A token's client subscribes below its principal and publishes below its session, and nowhere else."""
    async with client(scene.port) as listener, client(scene.port) as speaker:
        assert await listener.connect("s1:listener", "u1", token()) == 0
        assert await listener.subscribe(("u1/#", 1)) == [1]
        assert await speaker.connect("s1:speaker", "u1", token()) == 0
        await speaker.publish("u1/s2/status", b"another session")
        await speaker.publish("u1/s1/status", b"online")
        assert (await listener.message()).payload == b"online"
