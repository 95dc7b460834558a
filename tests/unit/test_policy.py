"""The policy by example: what rules grant, what they must not, and what is denied whatever they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.errors import Invalid
from companion.core.model import Access, Action, Allow, Deny, Reason
from companion.core.policy import Policy
from companion.core.rules import Rule, RuleAction
from companion.core.windows import Window
from tests.support import oracle
from tests.support.hypo import any_text, examples
from tests.support.policies import NO_RULE, QOS, allow, deny, publish, subscribe


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
