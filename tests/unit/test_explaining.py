"""Why a decision came out as it did, against enforcement and against brute force."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.explaining import Miss, Outcome, explain
from companion.core.model import Access, Action, Allow, Deny, Reason
from companion.core.policy import OWN_TOPICS, Policy
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from companion.core.topics import check_filter
from companion.core.windows import Window
from tests.support import oracle
from tests.support.hypo import any_text, examples, many_examples
from tests.support.policies import (
    MOMENTS,
    PEERS,
    PUBLISHES,
    SMALL,
    SUBSCRIPTIONS,
    conditional_rule_sets,
    expected,
    missed,
)


@pytest.mark.timeout(3600)
@many_examples(1000)
@given(conditional_rule_sets(), PUBLISHES | SUBSCRIPTIONS, PEERS, MOMENTS)
def test_explain_agrees_with_enforcement(rules: list[Rule], access: Access, peer: str, now: int | None) -> None:
    """The verdict is that of the policy and the right one; the rule that is said to have decided is the one that it names.

    Whatever is said to have kept a rule from holding, each limit by itself, is what brute force finds.
    """
    here = access._replace(peer_host=peer)
    found = explain(rules, {}, here, now)
    assert found.decision == Policy(rules, {}).decide(here, now)
    kind, reason, names = expected(rules, here, now)
    assert (type(found.decision), found.decision.reason) == (kind, reason)
    assert found.decision.rule in names
    decided = [one.rule.id for one in found.rules if one.outcome is Outcome.DECIDED]
    assert decided == ([found.decision.rule] if found.decision.rule else [])
    spoken = [rule for rule in rules if rule.action in {"all", str(here.action)}]
    assert sorted(one.rule.id for one in found.rules) == sorted(rule.id for rule in spoken)
    for one in found.rules:
        wanted = missed(one.rule, here, now) | ({"topic"} if not _concerns(one.rule, here) else set())
        assert {str(miss) for miss in one.misses} == wanted
        assert (one.outcome is Outcome.MISSED) is bool(wanted)


def _concerns(rule: Rule, access: Access) -> bool:
    """Tell from the topics themselves whether the rule has to do with what is asked for."""
    levels, wanted = check_filter(rule.filter), tuple(access.topic.split("/"))
    if access.action is Action.PUBLISH:
        return oracle.matches(levels, wanted)
    if rule.effect is Effect.DENY:
        return SMALL.overlaps(levels, wanted)
    return SMALL.covers(levels, wanted)


@examples(200)
@given(any_text(), st.sampled_from(Action))
def test_any_topic_is_explained(text: str, action: Action) -> None:
    """Nothing that a client can send as a topic raises; of what is no topic no rule is looked at."""
    rules = [Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "#", id="all")]
    found = explain(rules, {}, Access(action, text), None)
    assert found.decision == Policy(rules, {}).decide(Access(action, text))
    assert bool(found.rules) is (found.decision.reason is not Reason.INVALID_TOPIC)


def test_near_misses_by_name() -> None:
    """A rule that matched the topic but not QoS, retain, time or place is told with what it missed; denials come first."""
    night = Window("0 22 * * *", 3600)
    rules = [
        Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "t/${username}/#", frozenset({0}), retain=False, id="q"),
        Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "t/+/x", id="w", windows=(night,), locations=("10.0.0.0/8",)),
        Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "t/${session}/x", id="v"),
        Rule(EVERYONE, Effect.ALLOW, RuleAction.SUBSCRIBE, "t/#", id="s"),
        Rule(EVERYONE, Effect.DENY, RuleAction.ALL, "other/#", id="d"),
        *OWN_TOPICS,
    ]
    access = Access(Action.PUBLISH, "t/alice/x", "c", "alice", "192.0.2.1", qos=1, retain=True)
    found = explain(rules, {"username": "alice", "principal": "alice"}, access, 1_795_950_000)
    assert found.decision == Deny(Reason.NO_RULE)
    assert [(one.rule.id, one.filter, one.near, one.misses) for one in found.rules] == [
        ("d", "other/#", False, (Miss.TOPIC,)),
        ("q", "t/alice/#", True, (Miss.QOS, Miss.RETAIN)),
        ("w", "t/+/x", True, (Miss.TIME, Miss.LOCATION)),
        ("v", "", False, (Miss.VALUE,)),
        ("own:session", "", False, (Miss.VALUE,)),
    ]


@pytest.mark.parametrize("deny_first", [True, False])
def test_who_decided_and_who_was_beaten(*, deny_first: bool) -> None:
    """The first denial that holds decides; what would have allowed is told as beaten."""
    yes = Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "a/#", id="yes")
    no = Rule(EVERYONE, Effect.DENY, RuleAction.ALL, "a/+", id="no")
    found = explain([no, yes] if deny_first else [yes, no], {}, Access(Action.PUBLISH, "a/b"), None)
    assert found.decision == Deny(Reason.DENIED_BY_RULE, rule="no")
    assert [(one.rule.id, one.outcome) for one in found.rules] == [("no", Outcome.DECIDED), ("yes", Outcome.BEATEN)]
    alone = explain([yes], {}, Access(Action.PUBLISH, "a/b"), None)
    assert alone.decision == Allow(Reason.RULE, rule="yes")
