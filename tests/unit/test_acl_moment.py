"""A list for a moment and a place says, until its time is over, what the policy with its conditions says."""

from __future__ import annotations

from collections import Counter
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.acl_moment import rules_now
from companion.core.errors import Invalid
from companion.core.model import Access, Action, Allow
from companion.core.policy import Policy
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from companion.core.windows import Window
from tests.support.acl_cases import Both
from tests.support.hypo import examples
from tests.support.policies import MOMENTS, PEERS, PUBLISHES, SUBSCRIPTIONS, conditional_rule_sets

MONDAY = 1_795_996_800
"""30 November 2026, 00:00 UTC."""
WEEK = 7 * 86_400

TOLD = st.one_of(PUBLISHES, SUBSCRIPTIONS).map(
    lambda access: access._replace(qos=access.qos or 0, retain=bool(access.retain))
)
"""Requests as a broker judges them: QoS and retain are known."""

FRACTIONS = st.sampled_from((0.0, 0.3, 0.999))


def rule(effect: Effect, text: str, *, windows: tuple[Window, ...] = (), locations: tuple[str, ...] = ()) -> Rule:
    return Rule(EVERYONE, effect, RuleAction.ALL, text, windows=windows, locations=locations)


def test_until_then_it_is_the_policy() -> None:
    """At every moment before `until` the rules that are left, and their list, decide as all of the rules do."""
    seen: Counter[str] = Counter()

    @examples(400)
    @given(conditional_rule_sets(), MOMENTS.filter(bool), PEERS, st.lists(TOLD, min_size=4, max_size=8), FRACTIONS)
    def holds(rules: list[Rule], now: int, peer: str, wanted: list[Access], fraction: float) -> None:
        held, until = rules_now(rules, now, peer)
        assert until > now
        assert not any(one.conditional for one in held)
        moment = now + (min(until, now + WEEK) - now) * fraction
        policy, both = Policy(rules, {}), Both(held, {})
        seen["list" if both.refused is None else "none"] += 1
        seen["ends" if until < inf else "does not end"] += 1
        for access in wanted:
            ours = isinstance(policy.decide(access._replace(peer_host=peer), moment), Allow)
            assert isinstance(Policy(held, {}).decide(access), Allow) is ours
            seen["allowed" if ours else "denied"] += 1
            if both.refused is None:
                compared = both.compare(access.action, access.topic, access.qos or 0, retain=bool(access.retain))
                assert compared.listed is ours

    holds()
    assert all(seen[what] > 20 for what in ("list", "ends", "does not end", "allowed", "denied")), seen


NINE_TO_FIVE = Window("0 9 * * *", 8 * 3600)


@pytest.mark.parametrize("effect", Effect)
def test_times(effect: Effect) -> None:
    """Before its window a rule is left out until it opens, within it is there until it closes."""
    rules = [rule(effect, "t", windows=(NINE_TO_FIVE,)), rule(Effect.ALLOW, "u")]
    assert rules_now(rules, MONDAY, "") == ([rules[1]], MONDAY + 9 * 3600)
    assert rules_now(rules, MONDAY + 9 * 3600, "") == ([rule(effect, "t"), rules[1]], MONDAY + 17 * 3600)
    assert rules_now(rules, MONDAY + 17 * 3600, "") == ([rules[1]], MONDAY + 33 * 3600)


def test_places() -> None:
    """A place is the same for the whole session; of an address that is none only denials are known to hold."""
    rules = [rule(Effect.ALLOW, "t", locations=("10.0.0.0/8",)), rule(Effect.DENY, "u", locations=("10.0.0.0/8",))]
    plain = [rule(Effect.ALLOW, "t"), rule(Effect.DENY, "u")]
    assert rules_now(rules, MONDAY, "10.1.2.3") == (plain, inf)
    assert rules_now(rules, MONDAY, "::ffff:10.1.2.3") == (plain, inf)
    assert rules_now(rules, MONDAY, "192.0.2.1") == ([], inf)
    assert rules_now(rules, MONDAY, "") == (plain[1:], inf)


def test_times_of_rules_for_elsewhere_do_not_matter() -> None:
    """A session does not end for the window of a rule that never holds in it."""
    elsewhere = rule(Effect.ALLOW, "t", windows=(NINE_TO_FIVE,), locations=("10.0.0.0/8",))
    assert rules_now([elsewhere], MONDAY, "192.0.2.1") == ([], inf)
    assert rules_now([elsewhere], MONDAY, "10.1.2.3") == ([], MONDAY + 9 * 3600)


def test_a_window_that_cannot_be_understood() -> None:
    """It is an error, not a rule that never holds."""
    with pytest.raises(Invalid):
        rules_now([rule(Effect.DENY, "t", windows=(Window("nonsense", 60),))], MONDAY, "")


def test_a_publish_at_the_edge() -> None:
    """At `until` itself the policy says something else."""
    rules = [rule(Effect.ALLOW, "t", windows=(NINE_TO_FIVE,))]
    _, until = rules_now(rules, MONDAY, "")
    access = Access(Action.PUBLISH, "t", qos=0, retain=False)
    assert not isinstance(Policy(rules, {}).decide(access, until - 1), Allow)
    assert isinstance(Policy(rules, {}).decide(access, until), Allow)
