"""Publishing and subscribing: who has rights at all, own topics, and what an answer leaves behind."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from companion.core.model import Account, Kind, Session
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from tests.support.access import service
from tests.support.eventually import eventually
from tests.support.jwts import SECRET, in_seconds, token
from tests.support.service import Service, account_of, serving
from tests.support.traces import decisions, only_trace

__all__ = ["service"]


# Own topics


@pytest.mark.parametrize(
    ("action", "topic", "allowed"),
    [
        ("subscribe", "p1/#", True),
        ("subscribe", "p1/+/x", True),
        ("subscribe", "p1/thing/d1/devices", True),
        ("subscribe", "p1", True),
        ("subscribe", "p2/#", False),
        ("subscribe", "p11/#", False),
        ("subscribe", "alice/#", False),
        ("subscribe", "#", False),
        ("subscribe", "+/#", False),
        ("subscribe", "+", False),
        ("subscribe", "$SYS/#", False),
        ("publish", "p1/x", False),
        ("publish", "p1/c1/x", False),
        ("publish", "alice/x", False),
    ],
)
async def test_own_topics_of_an_account(service: Service, action: str, topic: str, *, allowed: bool) -> None:
    """An account hears everything below its principal, whatever its user name, and publishes nothing without a rule."""
    assert await service.may("alice", action, topic) is allowed


@pytest.mark.parametrize(
    ("action", "topic", "allowed"),
    [
        ("subscribe", "u1/#", True),
        ("subscribe", "u1/s1/token", True),
        ("publish", "u1/s1/status", True),
        ("publish", "u1/s1/a/b/c", True),
        ("publish", "u1/s2/status", False),
        ("publish", "u1/s11/status", False),
        ("publish", "u1/status", False),
        ("publish", "u2/s1/status", False),
        ("subscribe", "u2/#", False),
        ("subscribe", "+/s1/#", False),
        ("subscribe", "#", False),
    ],
)
async def test_own_topics_of_a_session(service: Service, action: str, topic: str, *, allowed: bool) -> None:
    """A platform session hears everything of its principal, and publishes below its own session only."""
    assert await service.may("u1", action, topic, "s1:1") is allowed


# Who is connected


@pytest.mark.parametrize(
    ("username", "client_id"),
    [("", ""), ("", "c1"), ("nobody", "c1"), ("u1", "s1:2"), ("u1", "c1"), ("u1", ""), ("u2", "s1:1"), ("Alice", "c1")],
)
async def test_somebody_who_never_connected(
    service: Service, logged: io.StringIO, username: str, client_id: str
) -> None:
    """Without an account, and without a session of just this client id, there is nobody to have rights."""
    await service.store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "#"))
    assert await service.may(username, "subscribe", "t", client_id) is False
    assert (await only_trace(service, logged, "authz")).reason == "not_connected"


async def test_a_session_that_has_expired(service: Service, logged: io.StringIO) -> None:
    """After the end of its token a session may nothing more."""
    await service.store.sessions.put(Session("u1", "s1:1", "u1", "s1", in_seconds(-1)))
    assert await service.may("u1", "subscribe", "u1/#", "s1:1") is False
    assert (await only_trace(service, logged, "authz")).reason == "token_expired"


async def test_a_session_that_expires(service: Service, logged: io.StringIO) -> None:
    """A session that was good is refused from the end of its token on, though its rights were in the cache."""
    assert (await service.login("u1", token(exp=in_seconds(3)), "s1:1"))["result"] == "allow"
    assert await service.may("u1", "subscribe", "u1/#", "s1:1") is True

    async def refused() -> bool:
        return not await service.may("u1", "subscribe", "u1/#", "s1:1")

    await eventually(refused, what="the session has ended")
    assert decisions(logged)[-1]["reason"] == "token_expired"


async def test_a_session_that_another_process_has_renewed(service: Service, logged: io.StringIO) -> None:
    """An expired session is good again at once when a newer token was taken, also by another process."""
    await service.store.sessions.put(Session("u1", "s1:1", "u1", "s1", in_seconds(1)))

    async def refused() -> bool:
        return not await service.may("u1", "subscribe", "u1/#", "s1:1")

    await eventually(refused, what="the session has ended")
    assert {line["reason"] for line in decisions(logged)} <= {"own_topic", "token_expired"}
    await service.store.sessions.put(Session("u1", "s1:1", "u1", "s1", in_seconds(900)))
    assert await service.may("u1", "subscribe", "u1/#", "s1:1") is True


async def test_a_session_that_this_process_renews(service: Service) -> None:
    """A newer token counts at once for whoever is connected already."""
    await service.store.sessions.put(Session("u1", "s1:1", "u1", "s1", in_seconds(-1)))
    assert await service.may("u1", "subscribe", "u1/#", "s1:1") is False
    assert (await service.login("u1", token(), "s1:1"))["result"] == "allow"
    assert await service.may("u1", "subscribe", "u1/#", "s1:1") is True


async def test_a_login_lasts_beyond_the_process(tmp_path: Path) -> None:
    """Who logged in with a token is known after a restart: EMQX keeps the connection meanwhile."""
    secrets = (SecretStr(SECRET),)
    async with serving(tmp_path, token_secrets=secrets) as service:
        assert (await service.login("u1", token(), "s1:1"))["result"] == "allow"
    async with serving(tmp_path, token_secrets=secrets) as service:
        assert await service.may("u1", "publish", "u1/s1/status", "s1:1") is True


async def test_a_password_ends_an_earlier_session(service: Service) -> None:
    """A client id that now belongs to an account has no rights of the session that it was before."""
    await service.store.accounts.add([account_of("u1", "secret")])
    assert (await service.login("u1", token(), "s1:1"))["result"] == "allow"
    assert await service.may("u1", "publish", "u1/s1/status", "s1:1") is True
    assert (await service.login("u1", "secret", "s1:1"))["result"] == "allow"
    assert await service.may("u1", "publish", "u1/s1/status", "s1:1") is False
    assert (await service.login("u1", token(), "s1:1"))["result"] == "allow"
    assert await service.may("u1", "publish", "u1/s1/status", "s1:1") is True


@pytest.mark.parametrize(
    ("changes", "reason"), [({"disabled": True}, "account_disabled"), ({"expires_at": 1}, "account_expired")]
)
async def test_an_account_that_may_not_be_used(
    service: Service, logged: io.StringIO, changes: dict[str, Any], reason: str
) -> None:
    """Disabled and expired accounts may nothing, also where a session of the same name lives."""
    await service.store.accounts.add([Account("u1", Kind.USER, "u1", "no hash", **changes)])
    assert await service.may("u1", "subscribe", "u1/#", "s1:1") is False
    assert (await only_trace(service, logged, "authz")).reason == reason


async def test_an_account_that_expires(service: Service, logged: io.StringIO) -> None:
    """An account that was good is refused from its end on, though its rights were in the cache."""
    await service.store.accounts.add([Account("carol", Kind.USER, "carol", "no hash", expires_at=in_seconds(3))])
    assert await service.may("carol", "subscribe", "carol/#") is True

    async def refused() -> bool:
        return not await service.may("carol", "subscribe", "carol/#")

    await eventually(refused, what="the account has expired")
    assert decisions(logged)[-1]["reason"] == "account_expired"


async def test_an_account_that_is_disabled_while_connected(service: Service, logged: io.StringIO) -> None:
    """Whoever is disabled after connecting may nothing more soon after, and everything again once enabled."""
    assert await service.may("alice", "subscribe", "p1/#") is True
    await service.store.accounts.set_disabled("alice", disabled=True)

    async def refused() -> bool:
        return not await service.may("alice", "subscribe", "p1/#")

    await eventually(refused, what="the account is refused")
    assert decisions(logged)[-1]["reason"] == "account_disabled"
    await service.store.accounts.set_disabled("alice", disabled=False)
    await eventually(lambda: service.may("alice", "subscribe", "p1/#"), what="the account is admitted")


# What is left behind


async def test_what_an_allowed_publish_leaves(service: Service, logged: io.StringIO) -> None:
    """An allowed publish or subscribe is counted, and logged where all decisions are; it is too frequent to be audited."""
    assert await service.may("alice", "subscribe", "p1/#") is True
    trace = await only_trace(service, logged, "authz")
    assert (trace.reason, trace.line["rule"]) == ("own_topic", "own:principal")
    assert await service.may("alice", "subscribe", "p2/#") is False
    (audit,) = await service.audits(1)
    assert (audit.reason, audit.topic) == ("no_rule", "p2/#")


async def test_an_allowed_publish_is_only_counted(tmp_path: Path, logged: io.StringIO) -> None:
    """Where only refusals are logged, what is allowed leaves nothing but the count."""
    async with serving(tmp_path, log_decisions="refused") as service:
        await service.store.accounts.add([Account("alice", Kind.DEVICE, "p1", "no hash")])
        assert await service.may("alice", "subscribe", "p1/#") is True
        assert await service.may("alice", "subscribe", "p2/#") is False
        (counted,) = [
            value
            for labels, value in await service.samples("companion_hook_decisions_total")
            if "own_topic" in labels.values()
        ]
        assert counted == 1
        assert len(await service.audits(1)) == 1
    assert [line["reason"] for line in decisions(logged)] == ["no_rule"]
