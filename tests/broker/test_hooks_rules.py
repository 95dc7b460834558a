"""Publishing and subscribing by stored rules: whom, where and when a rule is for, its limits, and when it is felt."""

from __future__ import annotations

import io

import pytest

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
from tests.support.access import ALICE, allow, deny, service
from tests.support.eventually import eventually
from tests.support.service import Service
from tests.support.traces import decisions, only_trace

__all__ = ["service"]


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


async def test_a_rule_that_comes_and_goes(service: Service) -> None:
    """A rule that another process adds or removes is felt soon, by whoever is connected."""
    assert await service.may("alice", "publish", "t") is False
    rule = await service.store.rules.add(Rule(ALICE, Effect.ALLOW, RuleAction.PUBLISH, "t"))
    await eventually(lambda: service.may("alice", "publish", "t"), what="the rule is felt")
    await service.store.rules.remove(rule.id)

    async def refused() -> bool:
        return not await service.may("alice", "publish", "t")

    await eventually(refused, what="the rule is gone")
