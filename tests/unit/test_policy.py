"""The policy: what a principal may do, against brute force over every topic that matters."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.errors import Invalid
from companion.core.model import Access, Action, Allow, Decision, Deny, Reason
from companion.core.policy import OWN_TOPICS, Policy
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from companion.core.windows import Window
from tests.support import oracle
from tests.support.hypo import any_text, examples
from tests.support.policies import (
    MOMENTS,
    NAMES,
    PEERS,
    PUBLISHES,
    QOS,
    QOS_SETS,
    SUBSCRIPTIONS,
    Expected,
    completions,
    conditional_rule_sets,
    expected,
    expected_publish,
    expected_subscribe,
    rule_sets,
)

TINY = oracle.Universe(("a", "b", "$x"), depth=2)

NO_RULE = Deny(Reason.NO_RULE)


def allow(filter_: str, action: RuleAction = RuleAction.ALL, *, id_: str = "yes") -> Rule:
    return Rule(EVERYONE, Effect.ALLOW, action, filter_, id=id_)


def deny(filter_: str, action: RuleAction = RuleAction.ALL, *, id_: str = "no") -> Rule:
    return Rule(EVERYONE, Effect.DENY, action, filter_, id=id_)


def publish(topic: str, qos: int | None = None, *, retain: bool | None = None) -> Access:
    return Access(Action.PUBLISH, topic, qos=qos, retain=retain)


def subscribe(topic_filter: str, qos: int | None = None) -> Access:
    return Access(Action.SUBSCRIBE, topic_filter, qos=qos)


def check(decision: Decision, right: Expected) -> None:
    kind, reason, ids = right
    assert isinstance(decision, kind)
    assert decision.reason is reason
    assert decision.rule in ids


@examples(400)
@given(rule_sets(), st.lists(PUBLISHES, min_size=1, max_size=8))
def test_publish_by_brute_force(rules: list[Rule], wanted: list[Access]) -> None:
    """For any rules and publishes: kind, reason and rule of the decision are those of the rules taken one by one."""
    policy = Policy(rules, {})
    for access in wanted:
        check(policy.decide(access), expected_publish(rules, access))


@examples(400)
@given(rule_sets(), st.lists(SUBSCRIPTIONS, min_size=1, max_size=8))
def test_subscribe_by_brute_force(rules: list[Rule], wanted: list[Access]) -> None:
    """For any rules and subscriptions: the decision follows from every topic that the subscription would receive."""
    policy = Policy(rules, {})
    for access in wanted:
        check(policy.decide(access), expected_subscribe(rules, access))


@examples(600)
@given(
    conditional_rule_sets(),
    st.lists(st.tuples(PUBLISHES | SUBSCRIPTIONS, PEERS, MOMENTS), min_size=1, max_size=8),
)
def test_conditions_by_brute_force(rules: list[Rule], wanted: list[tuple[Access, str, int | None]]) -> None:
    """For any rules with windows and locations, asked at any times, known or not: the decision is that of the rules one by one."""
    policy = Policy(rules, {})
    for access, peer, now in wanted:
        here = access._replace(peer_host=peer)
        check(policy.decide(here, now), expected(rules, here, now))


@examples(200)
@given(
    conditional_rule_sets(), PUBLISHES | SUBSCRIPTIONS, PEERS, MOMENTS.filter(bool), st.floats(0, 1, exclude_max=True)
)
def test_until_when_a_verdict_is_certain(rules: list[Rule], access: Access, peer: str, now: int, share: float) -> None:
    """No verdict changes by the passing of time before the policy says so; without windows none ever does."""
    policy, here = Policy(rules, {}), access._replace(peer_host=peer)
    until = policy.certain_until(now)
    assert until > now
    assert (until == math.inf) or any(rule.windows for rule in rules)
    between = now + int((min(until, now + 10_000_000) - now) * share)
    assert policy.decide(here, between) == policy.decide(here, now)


def test_conditions_by_name() -> None:
    """Who is unknown gets nothing: no address and no time meet no allow rule with a condition, and every deny rule with one."""
    night = Window("0 22 * * *", 8 * 3600, "Europe/Berlin")
    evening, noon = 1_795_987_800, 1_795_950_000  # 30 November 2026, 22:30 and 12:00 in Berlin
    yes = Policy([replace(allow("a"), windows=(night,), locations=("10.0.0.0/8",))], {})
    no = Policy([allow("a"), replace(deny("a"), windows=(night,), locations=("10.0.0.0/8",))], {})
    here = publish("a")._replace(peer_host="10.1.2.3")
    for access, now, holds in (
        (here, evening, True),
        (here, noon, False),
        (here._replace(peer_host="192.0.2.1"), evening, False),
    ):
        assert isinstance(yes.decide(access, now), Allow) is holds
        assert isinstance(no.decide(access, now), Allow) is not holds
    unknown = ((here, None), (here._replace(peer_host=""), evening), (here._replace(peer_host="x"), None))
    for access, moment in unknown:
        assert yes.decide(access, moment) == NO_RULE
        assert no.decide(access, moment) == Deny(Reason.DENIED_BY_RULE, rule="no")


def test_every_small_pair_of_allow_and_deny() -> None:
    """One allow and one deny rule: allowed is every topic of the first but the second's, and what receives only such topics."""
    granted = refused = 0
    for yes, no in product(TINY.filters, repeat=2):
        policy = Policy([allow("/".join(yes)), deny("/".join(no))], {})
        may = set(TINY.matched(yes)).difference(TINY.matched(no))
        assert {topic for topic in TINY.topics if isinstance(policy.decide(publish("/".join(topic))), Allow)} == may
        for wanted in TINY.filters:
            allowed = isinstance(policy.decide(subscribe("/".join(wanted))), Allow)
            assert allowed is may.issuperset(TINY.matched(wanted)), (yes, no, wanted)
            granted, refused = granted + allowed, refused + (not allowed)
    assert granted > 100
    assert refused > 100


@examples(200)
@given(st.data(), rule_sets(), SUBSCRIPTIONS, PUBLISHES)
def test_the_order_of_rules_means_nothing(
    data: st.DataObject, rules: list[Rule], subscription: Access, publication: Access
) -> None:
    """Deny beats allow wherever it stands: any order gives the same kind of answer for the same reason."""
    shuffled = data.draw(st.permutations(rules))
    for access in (subscription, publication):
        one, other = Policy(rules, {}).decide(access), Policy(shuffled, {}).decide(access)
        assert (type(one), one.reason) == (type(other), other.reason)


@pytest.mark.parametrize("effect", Effect)
def test_limits_of_qos_and_retain(effect: Effect) -> None:
    """Every QoS set, every limit of retain, every request, told or not: what is not known is never in the client's favour."""
    for qos_set, limit in product(QOS_SETS, (None, True, False)):
        limited = Rule(EVERYONE, effect, RuleAction.ALL, "t", qos=qos_set, retain=limit, id="limited")
        rules = [limited] if effect is Effect.ALLOW else [limited, allow("t")]
        policy = Policy(rules, {})
        for qos, retain in product((None, 0, 1, 2, 3, -1), (None, True, False)):
            for access in (publish("t", qos, retain=retain), subscribe("t", qos)._replace(retain=retain)):
                check(policy.decide(access), expected_publish(rules, access))


@examples(200)
@given(rule_sets(), st.sampled_from(NAMES), st.sampled_from(Action))
def test_what_is_not_told_is_never_allowed_more(rules: list[Rule], topic: str, action: Action) -> None:
    """A yes without QoS and retain is a yes with any of them."""
    policy, untold = Policy(rules, {}), Access(action, topic)
    told = [policy.decide(untold._replace(qos=qos, retain=retain)) for qos, retain in completions(untold)]
    if isinstance(policy.decide(untold), Allow):
        assert all(isinstance(decision, Allow) for decision in told)


OVER_GRANTS = [
    # (rules, subscription, the rule behind the denial). What EMQX's own matcher grants, or might, and a careful policy does not.
    ([allow("a/+")], "a/#", ""),
    ([allow("+")], "#", ""),
    ([allow("$SYS/+")], "$SYS/#", ""),
    ([allow("+/x/+")], "q/x/#", ""),
    ([allow("a/+")], "$share/g/a/#", ""),
    ([allow("a/+")], "a/+/#", ""),
    ([allow("a/+/b")], "a/#", ""),
    ([allow("a/+/b")], "a/+/#", ""),
    ([deny("a/b"), allow("a/#")], "a/#", "no"),
    ([deny("a/b"), allow("a/#")], "a/+", "no"),
    ([deny("a/b"), allow("a/#")], "$share/g/a/+", "no"),
    ([allow("#")], "$SYS/#", ""),
    # And their relatives.
    ([allow("a/+/#")], "a/#", ""),
    ([allow("+/#")], "$SYS/#", ""),
    ([allow("#")], "$SYS/broker/uptime", ""),
    ([allow("$SYS/#")], "#", ""),
    ([allow("+/+/#")], "#", ""),
    ([allow("a/b/#"), deny("a/+/c")], "a/b/#", "no"),
    ([allow("a/#"), deny("a/b/c")], "a/b/+", "no"),
    ([allow("a/#"), deny("#")], "a/b", "no"),
    ([allow("a"), allow("b")], "+", ""),
    ([allow("a/#", RuleAction.PUBLISH)], "a/#", ""),
    ([], "a", ""),
]


@pytest.mark.parametrize(("rules", "wanted", "rule"), OVER_GRANTS)
def test_subscriptions_that_would_receive_too_much(rules: list[Rule], wanted: str, rule: str) -> None:
    """A subscription that could receive one topic too many is denied, also where EMQX's matcher grants it."""
    right = Deny(Reason.DENIED_BY_RULE, rule=rule) if rule else NO_RULE
    assert Policy(rules, {}).decide(subscribe(wanted)) == right
    assert Policy(rules[::-1], {}).decide(subscribe(wanted)) == right


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        ([allow("a/+")], "a/+"),
        ([allow("a/+")], "a/b"),
        ([allow("a/+")], "$share/g/a/+"),
        ([allow("+")], "+"),
        ([allow("$SYS/+")], "$SYS/+"),
        ([allow("+/x/+")], "q/x/+"),
        ([allow("a/+/b")], "a/+/b"),
        ([deny("a/b"), allow("a/#")], "a/c/#"),
        ([deny("a/b"), allow("a/#")], "a/b/c"),
        ([deny("a/b"), allow("a/#")], "$share/g/a"),
        ([allow("#")], "#"),
        ([allow("#")], "+/#"),
        ([allow("+/#")], "#"),
        ([allow("a/#")], "a"),
        ([allow("$SYS/#"), deny("#")], "$SYS/#"),
        ([allow("a/#"), deny("a/b", RuleAction.PUBLISH)], "a/b"),
    ],
)
def test_subscriptions_that_stay_within(rules: list[Rule], wanted: str) -> None:
    """The same rules grant what they do cover."""
    assert Policy(rules, {}).decide(subscribe(wanted)) == Allow(Reason.RULE, rule="yes")


@examples(200)
@given(rule_sets(), SUBSCRIPTIONS, st.text("abc$ é", min_size=1, max_size=5))
def test_a_shared_subscription_is_its_filter(rules: list[Rule], plain: Access, group: str) -> None:
    """`$share/{group}/{filter}` gets the decision of `{filter}`, whatever the group."""
    policy = Policy(rules, {})
    assert policy.decide(plain._replace(topic=f"$share/{group}/{plain.topic}")) == policy.decide(plain)


ALL_OPEN = Policy([allow("#"), allow("$SYS/#")], {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/+/a",
        "$share/#",
        "$share/g/a#",
        "$share/g/#/a",
        "$share/g/\0",
        "$share/g\0/a",
        "$share/\ud800/a",
        "$share/" + "g" * 70_000 + "/a",
        "a#",
        "#/a",
        "a+",
        "a\0",
        "\ud800",
        "x" * 70_000,
        "/" * 70_000,
        "$share/g/" + "é" * 35_000,
    ],
)
def test_invalid_subscriptions(text: str) -> None:
    """What is no filter is denied as such, with what would be right, even where everything is allowed."""
    decision = ALL_OPEN.decide(subscribe(text))
    assert isinstance(decision, Deny)
    assert decision.reason is Reason.INVALID_TOPIC
    assert decision.rule == ""
    assert decision.detail


@pytest.mark.parametrize("text", ["", "#", "+", "a/+", "a/#", "a#b", "\0", "a/\udfff", "x" * 70_000, "é" * 32_768])
def test_invalid_publishes(text: str) -> None:
    """A wildcard in a topic name is denied as such, even where the same filter is allowed."""
    decision = ALL_OPEN.decide(publish(text))
    assert isinstance(decision, Deny)
    assert decision.reason is Reason.INVALID_TOPIC
    assert decision.detail


@examples(400)
@given(any_text(), st.sampled_from(Action), QOS)
def test_any_text_gets_a_decision(text: str, action: Action, qos: int | None) -> None:
    """Nothing that a client can send as a topic raises, and a yes is given to valid topics alone."""
    decision = ALL_OPEN.decide(Access(action, text, qos=qos))
    valid = oracle.is_name if action is Action.PUBLISH else oracle.is_filter
    assert not isinstance(decision, Allow) or valid(text)
    assert decision.reason in (Reason.RULE, Reason.NO_RULE, Reason.INVALID_TOPIC)


def test_a_decision_names_its_rule() -> None:
    """The rule's own id and reason come back, for publish and subscribe, allow and deny."""
    rules = [
        allow("a/#", RuleAction.PUBLISH, id_="p"),
        replace(allow("a/#", RuleAction.SUBSCRIBE, id_="s"), reason=Reason.OWN_TOPIC),
        deny("a/x", RuleAction.PUBLISH, id_="dp"),
        deny("a/y", RuleAction.SUBSCRIBE, id_="ds"),
    ]
    policy = Policy(rules, {})
    assert policy.size == 4
    assert policy.decide(publish("a/b")) == Allow(Reason.RULE, rule="p")
    assert policy.decide(subscribe("a/b")) == Allow(Reason.OWN_TOPIC, rule="s")
    assert policy.decide(publish("a/x")) == Deny(Reason.DENIED_BY_RULE, rule="dp")
    assert policy.decide(subscribe("a/x")) == Allow(Reason.OWN_TOPIC, rule="s")
    assert policy.decide(subscribe("a/#")) == Deny(Reason.DENIED_BY_RULE, rule="ds")
    assert policy.decide(publish("a/y")) == Allow(Reason.RULE, rule="p")


@pytest.mark.parametrize("values", [{}, {"username": ""}, {"clientid": "alice"}])
def test_an_allow_rule_without_its_value_grants_nothing(values: dict[str, str]) -> None:
    """No value, no grant: not for an empty level, not for every level."""
    policy = Policy([allow("t/${username}"), allow("u/${username}/#")], values)
    assert policy.size == 0
    for text in ("t/", "t/x", "t/${username}", "u//a"):
        assert policy.decide(publish(text)) == policy.decide(subscribe(text)) == NO_RULE
    assert policy.decide(subscribe("t/+")) == NO_RULE


@pytest.mark.parametrize("values", [{}, {"username": ""}, {"clientid": "alice"}])
def test_a_deny_rule_without_its_value_denies_every_value(values: dict[str, str]) -> None:
    """A deny rule never fades: without a value it stands for all of them."""
    policy = Policy([allow("#"), deny("t/${username}/x")], values)
    for text in ("t//x", "t/bob/x", "t/a%2Fb/x"):
        assert policy.decide(publish(text)) == policy.decide(subscribe(text)) == Deny(Reason.DENIED_BY_RULE, rule="no")
    assert policy.decide(publish("t/bob/y")) == policy.decide(subscribe("t/bob")) == Allow(Reason.RULE, rule="yes")


PRINCIPALS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6) | st.sampled_from(
    ("a", "b", "a/b", "+", "#", "$SYS", "%2B", "$", "/", "a/#", "\0")
)


@examples(200)
@given(PRINCIPALS, PRINCIPALS, PRINCIPALS)
def test_own_topics_are_nobody_elses(one: str, other: str, session: str) -> None:
    """Whatever a principal is called, its own topics are allowed to it and to no other, as a subscription or as a publish."""
    policy = Policy(OWN_TOPICS, {"principal": one, "session": session})
    theirs = Policy(OWN_TOPICS, {"principal": other, "session": session})
    assert policy.size == theirs.size == 2
    own = OWN_TOPICS[0].filter.replace("${principal}", _encoded(one))
    mine = [subscribe(own), subscribe(own.removesuffix("/#")), publish(own.replace("#", _encoded(session) + "/x"))]
    for access in mine:
        assert isinstance(policy.decide(access), Allow)
        assert isinstance(theirs.decide(access), Allow) is (one == other)
    for everything in ("#", "+", "+/#", "$SYS/#", "$share/g/#", "$share/g/+/#"):
        assert policy.decide(subscribe(everything)) == NO_RULE


def _encoded(value: str) -> str:
    """Percent-encode byte by byte what may not stand in a level: separators, wildcards, controls and a leading `$`."""
    unsafe = {"%", "/", "+", "#", *map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))}
    return "".join(
        "".join(f"%{byte:02X}" for byte in character.encode())
        if character in unsafe or (character == "$" and index == 0)
        else character
        for index, character in enumerate(value)
    )


def test_own_topics_by_name() -> None:
    """Everybody subscribes below its own id; only a platform session publishes, below its own session; a stored deny beats both."""
    session = Policy(OWN_TOPICS, {"principal": "u1", "session": "s1"})
    assert session.decide(subscribe("u1/#")) == Allow(Reason.OWN_TOPIC, rule="own:principal")
    assert session.decide(publish("u1/s1/x")) == Allow(Reason.OWN_TOPIC, rule="own:session")
    assert (
        session.decide(publish("u1/s2/x"))
        == session.decide(publish("u1"))
        == session.decide(subscribe("u2/#"))
        == NO_RULE
    )

    account = Policy(OWN_TOPICS, {"principal": "u1", "username": "alice"})
    assert account.size == 1
    assert account.decide(subscribe("u1/a/+")) == Allow(Reason.OWN_TOPIC, rule="own:principal")
    assert account.decide(publish("u1/s1/x")) == account.decide(publish("u1//x")) == NO_RULE

    blocked = Policy([*OWN_TOPICS, deny("${principal}/+/secret")], {"principal": "u1", "session": "s1"})
    assert (
        blocked.decide(publish("u1/s1/secret"))
        == blocked.decide(subscribe("u1/#"))
        == Deny(Reason.DENIED_BY_RULE, rule="no")
    )
    assert blocked.decide(publish("u1/s1/x")) == Allow(Reason.OWN_TOPIC, rule="own:session")


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (allow("a#"), "filter"),
        (deny("$share/g/a"), "filter"),
        (allow("${nobody}"), "filter"),
        (replace(deny("a"), qos=frozenset({3})), "qos"),
        (deny("${username}/" + "x" * 65_530), "filter"),
    ],
)
def test_a_rule_that_cannot_be_enforced_stops_the_policy(rule: Rule, field: str) -> None:
    """A policy is whole or not at all: a bad rule is named, never skipped."""
    with pytest.raises(Invalid) as caught:
        Policy([allow("#"), rule], {"username": "somebody"})
    assert caught.value.field == field
