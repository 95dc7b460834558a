"""The policy: what a principal may do, against brute force over every topic that matters."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.model import Access, Action, Allow
from companion.core.policy import Policy
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from tests.support import oracle
from tests.support.hypo import examples
from tests.support.policies import (
    MOMENTS,
    NAMES,
    PEERS,
    PUBLISHES,
    QOS_SETS,
    SUBSCRIPTIONS,
    allow,
    check,
    completions,
    conditional_rule_sets,
    deny,
    expected,
    expected_publish,
    expected_subscribe,
    publish,
    rule_sets,
    subscribe,
)

TINY = oracle.Universe(("a", "b", "$x"), depth=2)


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


@examples(200)
@given(rule_sets(), SUBSCRIPTIONS, st.text("abc$ é", min_size=1, max_size=5))
def test_a_shared_subscription_is_its_filter(rules: list[Rule], plain: Access, group: str) -> None:
    """`$share/{group}/{filter}` gets the decision of `{filter}`, whatever the group."""
    policy = Policy(rules, {})
    assert policy.decide(plain._replace(topic=f"$share/{group}/{plain.topic}")) == policy.decide(plain)
