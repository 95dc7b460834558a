"""The list for EMQX says exactly what the policy says, judged by a model of EMQX's matcher; or there is no list.

`ACL_EXAMPLES` sets the number of examples of the property test: `make acl EXAMPLES=20000`.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core import acl
from companion.core.acl import BROKER_ROOTS, Inexact, NotExact, compile_acl
from companion.core.explaining import Outcome, explain
from companion.core.model import Access, Action, Allow, Deny
from companion.core.policy import OWN_TOPICS, Policy
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from tests.conftest import Note
from tests.support import emqx_matcher, oracle
from tests.support.acl_cases import MOST_BYTES, MOST_TOPICS, Both, requests_near, rule_sets, value_sets
from tests.support.hypo import examples

EXAMPLES = int(os.environ.get("ACL_EXAMPLES", "400"))
REQUESTS = 16


def rule(
    effect: Effect, action: RuleAction, text: str, qos: set[int] | None = None, *, retain: bool | None = None
) -> Rule:
    return Rule(EVERYONE, effect, action, text, frozenset(qos or {0, 1, 2}), retain, id=f"{effect.value} {text}")


def allow(text: str, action: RuleAction = RuleAction.ALL, qos: set[int] | None = None) -> Rule:
    return rule(Effect.ALLOW, action, text, qos)


def deny(text: str, action: RuleAction = RuleAction.ALL, qos: set[int] | None = None) -> Rule:
    return rule(Effect.DENY, action, text, qos)


def compiled(
    *rules: Rule, values: dict[str, str] | None = None, topics: int = MOST_TOPICS, size: int = MOST_BYTES
) -> object:
    """Return the list as objects without its end, or why there is none."""
    answer = compile_acl(rules, values or {}, max_topics=topics, max_bytes=size)
    if isinstance(answer, NotExact):
        return answer
    lines = json.loads(answer)
    assert lines[-1] == {
        "permission": "deny",
        "action": "all",
        "topics": ["#", *(f"{root}/#" for root in BROKER_ROOTS)],
    }
    return lines[:-1]


def explained(rules: list[Rule], values: dict[str, str], access: Access) -> bool:
    """Return what the explanation says, once the rule that it names, if any, is one that would say so alone."""
    found = explain(rules, values, access, None)
    allowed = isinstance(found.decision, Allow)
    decisive = [one.rule.effect for one in found.rules if one.outcome is Outcome.DECIDED]
    assert decisive == [Effect.ALLOW] if allowed else decisive in ([], [Effect.DENY])
    return allowed


def test_the_list_is_the_policy(note: Note) -> None:
    """The property: nothing that the policy denies is allowed by the list, and nothing that it allows is denied.

    What the list leaves to others begins with a `$` level that means nothing to the broker, and the policy denies it. With a list
    or without one, an explanation of the verdict names a rule that makes it. Lists and refusals, allowed and denied publishes and
    subscriptions are all met often.
    """
    seen: Counter[str] = Counter()

    @examples(EXAMPLES)
    @given(rule_sets(), value_sets(), st.randoms(use_true_random=False))
    def holds(rules: list[Rule], values: dict[str, str], random: Random) -> None:
        both = Both(rules, values)
        seen.update(("refused", both.refused.why) if both.refused else ("list",))
        for action, topic, qos, retain in requests_near(random, rules, values, REQUESTS):
            compared = both.compare(action, topic, qos, retain=retain)
            seen[f"{action} {'allow' if compared.ours else 'deny'}"] += 1
            assert explained(rules, values, Access(action, topic, qos=qos, retain=retain)) is compared.ours
            if both.refused:
                continue
            assert compared.agree, (action, topic, qos, retain, compared)
            if not compared.told:
                assert topic.startswith("$")
                assert topic.split("/")[0] not in BROKER_ROOTS

    holds()
    note(f"one hop: {EXAMPLES} policies, {dict(seen)}")
    least = EXAMPLES / 20
    assert seen["list"] > least * 5
    assert seen["refused"] > least
    for what in ("subscribe allow", "subscribe deny", "publish allow", "publish deny"):
        assert seen[what] > least, seen
    for why in (Inexact.WILDCARD_PREFIX, Inexact.PARTIAL_DENIAL, Inexact.PLACEHOLDER):
        assert seen[why] or EXAMPLES < 5000, seen


# Everything small

RULES = oracle.Universe(("a", "$x"), depth=2).filters
WANTED = oracle.Universe(("a", "$x", "~"), depth=3).filters
"""`~` stands in no rule: what is granted with it is granted with any name."""


@dataclass(frozen=True, slots=True)
class Slip:
    """A subscription on which the list and the policy differ."""

    rules: tuple[str, ...]
    wanted: str
    granted: bool


def small_sets() -> Iterator[list[Rule]]:
    """Yield every one or two allow rules with and without a deny rule, over the small universe."""
    texts = ["/".join(levels) for levels in RULES]
    for one in texts:
        yield [allow(one)]
    for one, other in product(texts, repeat=2):
        yield [allow(one), deny(other)]
        yield [allow(one, RuleAction.SUBSCRIBE, {0, 1}), allow(other, RuleAction.SUBSCRIBE, {1, 2})]


def slips(sets: Iterator[list[Rule]]) -> Iterator[Slip]:
    """Yield every difference over these sets and every subscription and topic of the small universe."""
    for rules in sets:
        both = Both(rules, {})
        if both.refused:
            continue
        for levels in (*WANTED, oracle.EMPTY_NAME):
            topic = "/".join(levels)
            for qos in (0, 1) if len(rules) > 1 and rules[1].effect is Effect.ALLOW else (0,):
                compared = both.compare(Action.SUBSCRIBE, topic, qos)
                if not compared.agree:
                    yield Slip(tuple(one.id for one in rules), topic, compared.listed)
                if "+" not in topic and "#" not in topic:
                    compared = both.compare(Action.PUBLISH, topic, qos)
                    if not compared.agree:
                        yield Slip(tuple(one.id for one in rules), topic, compared.listed)


def test_everything_small() -> None:
    """Every pair of small rules: the list and the policy agree on every small subscription and topic."""
    assert list(slips(small_sets())) == []


@pytest.mark.parametrize(
    ("part", "without"),
    [
        ("_compensations", lambda *_: iter(())),
        ("surplus_of", lambda _: None),
        ("missed_by", lambda *_: iter(())),
        ("overlaps", lambda *_: False),
    ],
)
def test_compensating_denials_are_needed(monkeypatch: pytest.MonkeyPatch, part: str, without: object) -> None:
    """Without them, or a part of them, the same check finds a subscription that is granted and should not be."""
    monkeypatch.setattr(acl, part, without)
    found = next(slips(small_sets()))
    assert found.granted


def test_what_has_no_list_cannot_have_one() -> None:
    """Where a list is refused, one without compensations grants a filter with a name that stands in no rule.

    There are as many such filters as there are names.
    """
    refused = 0
    for one, other in product(["/".join(levels) for levels in RULES], repeat=2):
        rules = [allow(one), deny(other)]
        if Both(rules, {}).refused is None:
            continue
        refused += 1
        lines = [{"permission": line.effect.value, "action": "all", "topic": line.filter} for line in reversed(rules)]
        bare, policy = emqx_matcher.read(json.dumps(lines).encode()), Policy(rules, {})
        let_through = [
            levels
            for levels in WANTED
            if emqx_matcher.decide(bare, {}, "subscribe", "/".join(levels), 0) == "allow"
            and isinstance(policy.decide(Access(Action.SUBSCRIBE, "/".join(levels), qos=0)), Deny)
        ]
        assert any("~" in levels for levels in let_through), (one, other)
    assert refused > 20


# What stands in a list


def test_own_topics() -> None:
    """What every principal may do needs two lines."""
    assert compiled(*OWN_TOPICS, values={"principal": "u1", "session": "s1"}) == [
        {"permission": "allow", "action": "subscribe", "topics": ["u1/#"]},
        {"permission": "allow", "action": "publish", "topics": ["u1/s1/#"]},
    ]


def test_a_plus_at_the_end() -> None:
    """`a/+` needs `eq a/#` before it, unless another rule allows that; with a QoS of its own the denial has it too."""
    assert compiled(allow("a/+")) == [
        {"permission": "deny", "action": "subscribe", "topics": ["eq a/#"]},
        {"permission": "allow", "action": "all", "topics": ["a/+"]},
    ]
    assert compiled(allow("a/+", RuleAction.SUBSCRIBE), allow("a/#", RuleAction.SUBSCRIBE)) == [
        {"permission": "allow", "action": "subscribe", "topics": ["a/#"]},
    ]
    assert compiled(allow("a/+", RuleAction.SUBSCRIBE), allow("a/#", RuleAction.SUBSCRIBE, {0})) == [
        {"permission": "deny", "action": "subscribe", "topics": ["eq a/#"], "qos": [1, 2]},
        {"permission": "allow", "action": "subscribe", "topics": ["a/+"]},
        {"permission": "allow", "action": "subscribe", "topics": ["a/#"], "qos": [0]},
    ]


def test_a_denial_within_what_is_allowed() -> None:
    """Every filter that would receive `a/b` is denied word for word; at its QoS alone."""
    assert compiled(deny("a/b", qos={1}), allow("a/#")) == [
        {
            "permission": "deny",
            "action": "subscribe",
            "topics": ["eq a/#", "eq a/b/#", "eq a/+", "eq a/+/#"],
            "qos": [1],
        },
        {"permission": "deny", "action": "all", "topics": ["a/b"], "qos": [1]},
        {"permission": "allow", "action": "all", "topics": ["a/#"]},
    ]


def test_limits_are_said_in_words_of_the_broker() -> None:
    """QoS as a list, retain for publishes as a boolean; a rule that is limited in neither says neither."""
    rules = [rule(Effect.ALLOW, RuleAction.PUBLISH, "p", {0, 2}, retain=False), allow("s", RuleAction.SUBSCRIBE, {1})]
    assert compiled(*rules) == [
        {"permission": "allow", "action": "subscribe", "topics": ["s"], "qos": [1]},
        {"permission": "allow", "action": "publish", "topics": ["p"], "qos": [0, 2], "retain": False},
    ]


def test_nothing_allowed_is_a_list_too() -> None:
    """Without rules the list denies everything; it is never empty."""
    assert compiled() == []
    assert compile_acl([], {}, max_topics=1, max_bytes=MOST_BYTES) != b"[]"


def test_the_empty_topic_is_denied() -> None:
    """`#` and `+` match it in EMQX, which looks for it when a client sends `$queue/`; it is no topic."""
    assert compiled(allow("#", RuleAction.PUBLISH)) == [
        {"permission": "deny", "action": "all", "topics": ["eq "]},
        {"permission": "allow", "action": "publish", "topics": ["#"]},
    ]
    both = Both([allow("+"), allow("#")], {})
    assert not both.compare(Action.SUBSCRIBE, emqx_matcher.stripped("subscribe", "$queue/"), 0).listed
    assert not both.compare(Action.PUBLISH, emqx_matcher.stripped("publish", "$delayed/1/"), 0).listed
    assert both.compare(Action.SUBSCRIBE, "/", 0).listed


def test_what_only_looks_shared_is_left_to_the_hooks() -> None:
    """EMQX takes `$share` off a subscription, but not behind `$exclusive/`: then the list says nothing, and the hooks are asked."""
    both = Both([allow("a")], {})
    assert both.compare(Action.SUBSCRIBE, emqx_matcher.stripped("subscribe", "$share/g/a"), 0).listed
    behind = both.compare(Action.SUBSCRIBE, emqx_matcher.stripped("subscribe", "$exclusive/$share/g/a"), 0)
    assert not behind.told


# What does not


@pytest.mark.parametrize(
    ("rules", "why", "blamed"),
    [
        ([allow("+/x/+")], Inexact.WILDCARD_PREFIX, "allow +/x/+"),
        ([allow("+/+/#")], Inexact.WILDCARD_PREFIX, "allow +/+/#"),
        ([allow("#"), deny("a/#")], Inexact.PARTIAL_DENIAL, "deny a/#"),
        ([allow("a/#"), deny("a/+/c")], Inexact.PARTIAL_DENIAL, "deny a/+/c"),
        ([allow("t/${username}")], Inexact.PLACEHOLDER, "allow t/${username}"),
        ([allow("${principal}/#")], Inexact.LITERAL_PREFIX, "allow ${principal}/#"),
        ([deny("${principal}")], Inexact.LITERAL_PREFIX, "deny ${principal}"),
        ([allow("#"), deny("a/b/c/d/e/f/g")], Inexact.TOO_MANY, ""),
        ([allow(f"t/{number}") for number in range(MOST_TOPICS + 1)], Inexact.TOO_MANY, ""),
    ],
)
def test_why_there_is_no_list(rules: list[Rule], why: Inexact, blamed: str) -> None:
    """Each reason, with the rule that is to blame."""
    values = {"username": "a${clientid}", "principal": "eq a"}
    assert compiled(*rules, values=values) == NotExact(why, blamed)


def test_bounds() -> None:
    """As many topics and bytes as may be are a list, one more is none."""
    rules = [allow(f"t/{number}") for number in range(3)]
    assert isinstance(compiled(*rules, topics=3), list)
    assert compiled(*rules, topics=2) == NotExact(Inexact.TOO_MANY)
    size = len(compile_acl(rules, {}, max_topics=3, max_bytes=MOST_BYTES))  # type: ignore[arg-type]
    assert isinstance(compiled(*rules, size=size), list)
    assert compiled(*rules, size=size - 1) == NotExact(Inexact.TOO_LONG)


def test_an_unknown_limit_of_a_rule_keeps_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that can say when it holds in a way which the list does not know is never put into one."""
    known = frozenset(one.name for one in fields(Rule)) - {"retain"}
    limits = tuple(one for one in fields(Rule) if one.name not in known)
    monkeypatch.setattr(acl, "_LIMITS", limits)
    assert isinstance(compiled(allow("a")), list)
    limited = rule(Effect.ALLOW, RuleAction.PUBLISH, "a", retain=True)
    assert compiled(limited) == NotExact(Inexact.CONDITION, "allow a")
    assert isinstance(compiled(replace(limited, filter="${username}")), list), "a rule that grants nothing says nothing"


def test_every_field_of_a_rule_is_known_or_a_limit() -> None:
    """Whoever gives rules a new field decides here what the list does with it; until then it keeps rules out."""
    assert {one.name for one in fields(Rule)} >= acl._KNOWN
    assert {one.name for one in acl._LIMITS} == {one.name for one in fields(Rule)} - acl._KNOWN


def test_long_rules_end_soon() -> None:
    """Rules made to be slow are refused as fast as others: the search for what slips through is bounded."""
    deep = "/".join("abcdefghijklmnopqrstuvwxyz")
    started = time.perf_counter()
    assert compiled(allow("#"), deny(deep)) == NotExact(Inexact.TOO_MANY)
    assert compiled(allow("/".join("+" * 60)), deny("/".join("+" * 59 + "a"))) == NotExact(
        Inexact.WILDCARD_PREFIX, "allow " + "/".join("+" * 60)
    )
    assert isinstance(compiled(allow("/".join(["+"] * 60 + ["x"])), deny("/".join(["+"] * 30 + ["a"] * 31))), list)
    wide = [deny("/".join(["+"] * depth + ["z"])) for depth in range(30)]
    assert isinstance(compiled(allow("#"), *wide), NotExact)
    assert time.perf_counter() - started < 5
