"""Documents of other people's collections as rules: of EMQX, of mosquitto-go-auth, and the platform's grants."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from companion.account_sources import RuleSource
from companion.core.rules import Effect, Rule, RuleAction, subject_of_account
from companion.core.windows import Window
from companion.stores.mongo.foreign_rules import rules_of_emqx, rules_of_grant
from companion.stores.mongo.go_auth import rules_of_acls

ALICE = subject_of_account("alice")


# Access lists of mosquitto-go-auth


@pytest.mark.parametrize(
    ("acls", "actions"),
    [
        ([1], None),
        ([2], RuleAction.PUBLISH),
        ([3], RuleAction.ALL),
        ([4], None),
        ([1, 4], RuleAction.SUBSCRIBE),
        ([1, 2], RuleAction.PUBLISH),
        ([1, 2, 4], RuleAction.ALL),
        ([5], None),
        (["3"], None),
    ],
)
def test_accesses_of_go_auth(acls: list[Any], actions: RuleAction | None) -> None:
    """A subscription needs both: to subscribe and to receive."""
    rules = rules_of_acls([{"topic": "a/#", "acc": acc} for acc in acls], ALICE, "x", common=False)
    assert [rule.action for rule in rules] == ([] if actions is None else [actions])


@pytest.mark.parametrize(
    "acl", [None, {}, {"topic": 7, "acc": 3}, {"topic": "a#", "acc": 3}, {"topic": "${x}", "acc": 3}]
)
def test_accesses_that_are_none(acl: Any) -> None:
    """They allow nothing."""
    assert rules_of_acls([acl], ALICE, "x", common=True) == []


# Rules of EMQX


def emqx(**document: Any) -> list[tuple[Effect, RuleAction, str, frozenset[int], bool | None]]:
    rules = rules_of_emqx({"_id": 1, **document}, ALICE, "mqtt.mqtt_acl")
    assert all((rule.subject, rule.id) == (ALICE, "mqtt.mqtt_acl:1") for rule in rules)
    return [(rule.effect, rule.action, rule.filter, rule.qos, rule.retain) for rule in rules]


EVERY = frozenset({0, 1, 2})
ALLOW: dict[str, Any] = {"permission": "allow", "action": "publish"}
DENY: dict[str, Any] = {"permission": "deny", "action": "all"}
DENIED = [(Effect.DENY, RuleAction.ALL, one, EVERY, None) for one in ("#", "$SYS/#")]


def test_rules_of_emqx() -> None:
    """Lists and single topics, placeholders of both dialects, QoS and retain in every form."""
    allowed = Effect.ALLOW
    assert emqx(**ALLOW, topics=["a/%u", "b/${clientid}"]) == [
        (allowed, RuleAction.PUBLISH, "a/${username}", EVERY, None),
        (allowed, RuleAction.PUBLISH, "b/${clientid}", EVERY, None),
    ]
    for qos, wanted in ((1, {1}), ("0,2", {0, 2}), ([1, 2], {1, 2}), ("all", EVERY), (None, EVERY)):
        assert emqx(**ALLOW, topic="a", qos=qos) == [(allowed, RuleAction.PUBLISH, "a", frozenset(wanted), None)]
    for retain, limit in ((1, True), (0, False), (True, True), ("false", False), ("all", None), (None, None)):
        assert emqx(**ALLOW, topic="a", retain=retain) == [(allowed, RuleAction.PUBLISH, "a", EVERY, limit)]
    assert emqx(**ALLOW, topic="eq a/b") == [(allowed, RuleAction.PUBLISH, "a/b", EVERY, None)]
    assert emqx(**DENY, topic="eq a/+") == [(Effect.DENY, RuleAction.ALL, "a/+", EVERY, None)]
    assert emqx(publish=["p"], subscribe="s", pubsub=["x/%c"]) == [
        (allowed, RuleAction.PUBLISH, "p", EVERY, None),
        (allowed, RuleAction.SUBSCRIBE, "s", EVERY, None),
        (allowed, RuleAction.ALL, "x/${clientid}", EVERY, None),
    ]


@pytest.mark.parametrize(
    "document",
    [
        {**ALLOW, "topic": "eq a/+"},
        {**ALLOW, "topic": "a", "clientid": "c"},
        {**ALLOW, "topic": "a", "ipaddress": "10.0.0.1"},
        {**ALLOW, "topic": "a", "qos": 3},
        {**ALLOW, "topic": "a", "retain": "sometimes"},
        {**ALLOW, "topic": "a", "retain": []},
        {**ALLOW, "topics": [7]},
        {**ALLOW, "topic": "${cert_common_name}/x"},
        {"permission": "allow", "topic": "a"},
        {"permission": "allow", "action": "fly", "topic": "a"},
        {"publish": {"a": 1}},
        {"publish": ["a"], "clientid": "c"},
        {},
    ],
)
def test_what_allows_nothing(document: Mapping[str, Any]) -> None:
    """What cannot be said exactly is not allowed."""
    assert emqx(**document) == []


@pytest.mark.parametrize(
    "document",
    [
        {**DENY, "topic": "${cert_common_name}/x"},
        {**DENY, "topics": 7},
        {**DENY, "topic": "a", "qos": "x"},
        {"permission": "deny", "topic": "a"},
        {"permission": "maybe", "action": "all", "topic": "a"},
        {"permission": None, "action": "all", "topic": "a"},
    ],
)
def test_what_denies_everything(document: Mapping[str, Any]) -> None:
    """A denial that cannot be understood denies everything: nobody knows what was meant."""
    assert emqx(**document) == DENIED


# Grants


def grant(**document: Any) -> list[Rule]:
    return rules_of_grant({"_id": 1, "subject": "alice@a.org", **document}, "grants:alice@a.org", "auth.grants")


def test_grants() -> None:
    """A grant on a topic is a rule; on a service's documents, or on some of them, it is none."""
    (rule,) = grant(action="publish", object="telemetry/+/x")
    assert (rule.subject, rule.action, rule.filter) == ("grants:alice@a.org", RuleAction.PUBLISH, "telemetry/+/x")
    assert grant(action="any", object="a")[0].action is RuleAction.ALL
    assert grant(action="publish", object="a", deleted_at=None, location=[], time=[], field=["*"]) != []
    for document in (
        {"action": "create", "object": "a"},
        {"action": "publish", "object": "thing:metrics"},
        {"action": "publish", "object": "thing:*"},
        {"action": "publish", "object": 7},
        {"action": "publish", "object": "a#"},
        {"action": "publish", "object": "a", "filter": [{"owner": 1}]},
        {"action": "publish", "object": "a", "deleted_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)},
        {"object": "a"},
    ):
        assert grant(**document) == []


def test_grants_at_some_times_and_in_some_places() -> None:
    """Times have a cron line, with seconds as the platform writes it or not, in the time zone of the source; places networks."""
    morning = {"cron_exp": "* * 7 * * *", "duration": 9 * 3600}
    document = {
        "_id": 1,
        "action": "publish",
        "object": "a",
        "time": [morning],
        "location": ["192.168.2.10", "192.168.1.7/24"],
    }
    (rule,) = rules_of_grant(document, "grants:alice@a.org", "auth.grants", "Europe/Berlin")
    assert rule.windows == (Window("* * 7 * * *", 9 * 3600, "Europe/Berlin"),)
    assert rule.locations == ("192.168.2.10/32", "192.168.1.0/24")
    assert rule.conditional
    (rule,) = grant(action="publish", object="a", time=morning, location="10.0.0.0/8")
    assert rule.windows == (Window("* * 7 * * *", 9 * 3600, "UTC"),)
    assert rule.locations == ("10.0.0.0/8",)


@pytest.mark.parametrize(
    "condition",
    [
        {"time": [{"cron_exp": "whenever", "duration": 60}]},
        {"time": [{"cron_exp": "0 8 * * *"}]},
        {"time": [{"duration": 60}]},
        {"time": [{"cron_exp": "0 8 * * *", "duration": 60}, {"cron_exp": "0 8 1 * 1", "duration": 60}]},
        {"time": "0 8 * * *"},
        {"time": 8},
        {"location": ["here"]},
        {"location": ["10.0.0.0/8", 7]},
        {"location": {"cidr": "10.0.0.0/8"}},
    ],
    ids=str,
)
def test_grants_under_conditions_that_are_not_understood(condition: Mapping[str, Any]) -> None:
    """They allow nothing: not even in the places and at the times that are understood."""
    assert grant(action="publish", object="a", **condition) == []


def test_the_time_zone_of_grants() -> None:
    """It has to be one."""
    assert RuleSource.model_validate({"like": "grants", "timezone": "Asia/Tehran"}).timezone == "Asia/Tehran"
    with pytest.raises(ValidationError, match="the name of a time zone"):
        RuleSource.model_validate({"like": "grants", "timezone": "Mars"})
