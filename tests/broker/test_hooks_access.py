"""Publishing and subscribing: own topics, stored rules, sessions, and changes that other processes make."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from companion.core.model import Account, Kind, Session
from companion.core.rules import (
    ANY_QOS,
    EVERYONE,
    Effect,
    Rule,
    RuleAction,
    subject_of_account,
    subject_of_group,
    subject_of_kind,
    subject_of_tenant,
)
from companion.core.windows import Window
from tests.support.eventually import eventually
from tests.support.jwts import SECRET, in_seconds, token
from tests.support.service import Service, account_of, serving
from tests.support.traces import decisions, only_trace

ALICE = subject_of_account("alice")


@pytest.fixture
async def service(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run hooks with a device `alice` of the principal `p1`, a user `bob` of his own, and a session `s1` of the user `u1`."""
    del logged
    async with serving(tmp_path, token_secrets=(SecretStr(SECRET),), token_leeway=0) as running:
        await running.store.accounts.add(
            [
                Account("alice", Kind.DEVICE, "p1", "no hash", groups=("west", "night"), tenant="acme"),
                Account("bob", Kind.USER, "bob", "no hash", groups=("east",)),
            ]
        )
        session = Session("u1", "s1:1", "u1", "s1", in_seconds(900), groups=("east",), tenant="t/+")
        await running.store.sessions.put(session)
        yield running


async def allow(service: Service, subject: str, action: RuleAction, filter_: str, **limits: Any) -> Rule:
    """Store a rule that allows, and wait until it can be felt."""
    return await _stored(service, Rule(subject, Effect.ALLOW, action, filter_, **limits))


async def deny(service: Service, subject: str, action: RuleAction, filter_: str, **limits: Any) -> Rule:
    """Store a rule that denies, and wait until it can be felt."""
    return await _stored(service, Rule(subject, Effect.DENY, action, filter_, **limits))


async def _stored(service: Service, rule: Rule) -> Rule:
    """Store the rule behind one that lets a witness see that it has arrived."""
    stored = await service.store.rules.add(rule)
    witness = f"witness/{stored.id}"
    await service.store.rules.add(Rule(subject_of_account("bob"), Effect.ALLOW, RuleAction.SUBSCRIBE, witness))
    await eventually(lambda: service.may("bob", "subscribe", witness, "witness"), what="the rule is felt")
    return stored


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


# Stored rules


@pytest.mark.parametrize(
    ("subject", "username", "client_id", "allowed"),
    [
        (ALICE, "alice", "c1", True),
        (ALICE, "bob", "c1", False),
        (ALICE, "u1", "s1:1", False),
        (subject_of_account("u1"), "u1", "s1:1", True),
        (subject_of_kind("device"), "alice", "c1", True),
        (subject_of_kind("device"), "bob", "c1", False),
        (subject_of_kind("user"), "bob", "c1", True),
        (subject_of_kind("user"), "u1", "s1:1", False),
        (subject_of_kind("session"), "u1", "s1:1", True),
        (subject_of_kind("session"), "alice", "c1", False),
        (subject_of_group("west"), "alice", "c1", True),
        (subject_of_group("night"), "alice", "c1", True),
        (subject_of_group("west"), "bob", "c1", False),
        (subject_of_group("east"), "u1", "s1:1", True),
        (subject_of_group("acme"), "alice", "c1", False),
        (subject_of_tenant("acme"), "alice", "c1", True),
        (subject_of_tenant("acme"), "bob", "c1", False),
        (subject_of_tenant("t/+"), "u1", "s1:1", True),
        (EVERYONE, "alice", "c1", True),
        (EVERYONE, "u1", "s1:1", True),
    ],
)
async def test_whom_a_rule_is_for(
    service: Service, subject: str, username: str, client_id: str, *, allowed: bool
) -> None:
    """A rule holds for the account, the kind or everyone it names, and for nobody else."""
    await allow(service, subject, RuleAction.PUBLISH, "room/1")
    assert await service.may(username, "publish", "room/1", client_id) is allowed
    assert await service.may(username, "subscribe", "room/1", client_id) is False


@pytest.mark.parametrize(
    ("placeholder", "of_alice", "of_session"),
    [
        ("username", "alice", "u1"),
        ("clientid", "c1", "s1:1"),
        ("principal", "p1", "u1"),
        ("session", None, "s1"),
        ("tenant", "acme", "t%2F%2B"),
    ],
)
async def test_placeholders(service: Service, placeholder: str, of_alice: str | None, of_session: str) -> None:
    """Each placeholder stands for the value of whoever asks; without a value the rule grants nothing."""
    await allow(service, EVERYONE, RuleAction.PUBLISH, f"of/${{{placeholder}}}/x")
    for username, client_id, own in (("alice", "c1", of_alice), ("u1", "s1:1", of_session)):
        for value in ("alice", "c1", "p1", "u1", "s1", "s1:1", "acme", "t%2F%2B", "", "+", f"${{{placeholder}}}"):
            expected = value == own
            assert await service.may(username, "publish", f"of/{value}/x", client_id) is expected


@pytest.mark.parametrize("client_id", ["+", "#", "a/b", "+/#", "", "%2B"])
async def test_a_client_id_widens_nothing(service: Service, client_id: str) -> None:
    """What a client calls itself adds neither a level nor a wildcard to its rules."""
    await allow(service, EVERYONE, RuleAction.SUBSCRIBE, "dev/${clientid}")
    for topic in ("dev/+", "dev/#", "dev/a/b", "dev/x", "dev", "dev/"):
        assert await service.may("alice", "subscribe", topic, client_id) is False


@pytest.mark.parametrize("deny_first", [True, False])
@pytest.mark.parametrize("subject", [ALICE, subject_of_kind("device"), EVERYONE])
async def test_deny_beats_allow(service: Service, logged: io.StringIO, subject: str, *, deny_first: bool) -> None:
    """A deny rule stops what another rule allows, whatever their order and whomever they name, and own topics too."""
    if deny_first:
        denying = await deny(service, subject, RuleAction.ALL, "t/secret")
        await allow(service, ALICE, RuleAction.ALL, "t/#")
    else:
        await allow(service, ALICE, RuleAction.ALL, "t/#")
        denying = await deny(service, subject, RuleAction.ALL, "t/secret")
    assert await service.may("alice", "publish", "t/open") is True
    for action, topic in (("publish", "t/secret"), ("subscribe", "t/secret"), ("subscribe", "t/#")):
        assert await service.may("alice", action, topic) is False
        line = decisions(logged)[-1]
        assert (line["reason"], line["rule"]) == ("denied_by_rule", denying.id)


async def test_where_a_rule_holds(service: Service) -> None:
    """By the address that EMQX tells; without one an allow rule with a location does not hold, and a deny rule does."""
    await allow(service, ALICE, RuleAction.ALL, "near", locations=("10.0.0.0/8", "2001:db8::/32"))
    await allow(service, ALICE, RuleAction.ALL, "far")
    await deny(service, ALICE, RuleAction.ALL, "far", locations=("10.0.0.0/8",))
    for peer, near, far in (
        ("10.1.2.3", True, False),
        ("::ffff:10.1.2.3", True, False),
        ("2001:db8::7", True, True),
        ("192.0.2.1", False, True),
        ("", False, False),
        ("undefined", False, False),
    ):
        for action in ("publish", "subscribe"):
            assert await service.may("alice", action, "near", peerhost=peer) is near
            assert await service.may("alice", action, "far", peerhost=peer) is far


async def test_when_a_rule_holds(service: Service) -> None:
    """Windows open and close under a policy that is remembered all the while; a time that is not now is not now."""
    # Three seconds open, three closed.
    await allow(service, ALICE, RuleAction.ALL, "ajar", windows=(Window("*/6 * * * * *", 3),))
    await allow(service, ALICE, RuleAction.ALL, "open", windows=(Window("* * * * *", 60, "Asia/Kathmandu"),))
    await service.remembers("alice", "open")
    misses = await service.metric("companion_cache_lookups_total", cache="policy", outcome="miss")

    async def shut() -> bool:
        return not await service.may("alice", "publish", "ajar")

    for _ in range(2):
        await eventually(lambda: service.may("alice", "publish", "ajar"), what="the window is open")
        await eventually(shut, what="the window is closed")
    assert await service.may("alice", "subscribe", "open")
    assert await service.metric("companion_cache_lookups_total", cache="policy", outcome="miss") == misses


async def test_deny_beats_own_topics(service: Service) -> None:
    """What belongs to somebody by nature can be denied as well."""
    await deny(service, subject_of_kind("session"), RuleAction.PUBLISH, "${principal}/${session}/status")
    assert await service.may("u1", "publish", "u1/s1/status", "s1:1") is False
    assert await service.may("u1", "publish", "u1/s1/other", "s1:1") is True


async def test_limits_of_a_rule(service: Service) -> None:
    """QoS and retain come as text and count as numbers and truth; a rule with a limit needs to be told."""
    await allow(service, ALICE, RuleAction.PUBLISH, "q", qos=frozenset({0, 1}))
    await allow(service, ALICE, RuleAction.PUBLISH, "r", retain=False)
    await allow(service, ALICE, RuleAction.PUBLISH, "any", qos=ANY_QOS)
    for topic, told, expected in (
        ("q", {"qos": "0"}, True),
        ("q", {"qos": "1", "retain": "true"}, True),
        ("q", {"qos": "2"}, False),
        ("q", {}, False),
        ("r", {"retain": "false"}, True),
        ("r", {"retain": "0", "qos": "2"}, True),
        ("r", {"retain": "true"}, False),
        ("r", {"retain": "1"}, False),
        ("r", {}, False),
        ("any", {}, True),
        ("any", {"qos": "", "retain": ""}, True),
    ):
        assert await service.may("alice", "publish", topic, **told) is expected


@pytest.mark.parametrize(
    ("action", "topic", "reason"),
    [
        ("publish", "", "invalid_topic"),
        ("publish", "p1/+", "invalid_topic"),
        ("publish", "p1/#", "invalid_topic"),
        ("subscribe", "", "invalid_topic"),
        ("subscribe", "p1/#/x", "invalid_topic"),
        ("subscribe", "p1/x+", "invalid_topic"),
        ("subscribe", "$share/g", "invalid_topic"),
        ("subscribe", "$share/g/p1/x", "own_topic"),
        ("subscribe", "$share/g/p2/x", "no_rule"),
        ("publish", "p1/a\0b", "malformed"),
        ("publish", "${topic}", "malformed"),
        ("subscribe", "p1/" + "x" * 60_000, "own_topic"),
    ],
)
async def test_odd_topics(service: Service, logged: io.StringIO, action: str, topic: str, reason: str) -> None:
    """What is no topic name or filter is denied for that reason; a shared subscription is judged by its filter."""
    assert await service.may("alice", action, topic) is (reason == "own_topic")
    assert (await only_trace(service, logged, "authz")).reason == reason


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"access": "2", "topic": "t/p"}, True),
        ({"access": "1", "topic": "t/p"}, False),
        ({"access": "1", "topic": "t/s"}, True),
        ({"access": "2", "topic": "t/s"}, False),
        ({"action": "publish", "access": "1", "topic": "t/p"}, True),
        ({"action": "", "access": "2", "topic": "t/p"}, True),
        ({"action": "all", "access": "2", "topic": "t/p"}, False),
        ({"access": "3", "topic": "t/p"}, False),
        ({"access": "12", "topic": "t/p"}, False),
        ({"action": "PUBLISH", "topic": "t/p"}, False),
        ({"topic": "t/p"}, False),
    ],
)
async def test_the_two_ways_to_name_an_action(service: Service, fields: dict[str, str], *, allowed: bool) -> None:
    """`action` says it in words, `access` in numbers where there are no words."""
    await allow(service, ALICE, RuleAction.PUBLISH, "t/p")
    await allow(service, ALICE, RuleAction.SUBSCRIBE, "t/s")
    answer = await service.ask("authz", {"username": "alice", "clientid": "c1"} | fields)
    assert answer == {"result": "allow" if allowed else "deny"}


# Changes that another process makes


async def test_a_rule_that_comes_and_goes(service: Service) -> None:
    """A rule that another process adds or removes is felt soon, by whoever is connected."""
    assert await service.may("alice", "publish", "t") is False
    rule = await service.store.rules.add(Rule(ALICE, Effect.ALLOW, RuleAction.PUBLISH, "t"))
    await eventually(lambda: service.may("alice", "publish", "t"), what="the rule is felt")
    await service.store.rules.remove(rule.id)

    async def refused() -> bool:
        return not await service.may("alice", "publish", "t")

    await eventually(refused, what="the rule is gone")


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
