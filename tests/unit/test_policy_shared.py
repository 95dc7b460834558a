"""What policies share: rules are compiled once for all who have the same, and mean for each what they mean alone."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core import policy as module
from companion.core.errors import Invalid
from companion.core.model import Access, Action, Decision, Deny, Reason
from companion.core.policy import OWN_TOPICS, Policy, compiled_rule
from companion.core.rules import EVERYONE, PLACEHOLDERS, Effect, Rule, RuleAction
from companion.core.templates import escape_level
from companion.core.topics import check_filter, check_topic
from tests.support.hypo import any_text, examples

FILTERS = (
    "a/${username}/#",
    "${principal}/b",
    "x-${clientid}-y/+",
    "${tenant}",
    "a/${session}",
    "a/+",
    "#",
    "${username}/${clientid}/${principal}",
)
RULES = st.builds(
    Rule,
    st.just(EVERYONE),
    st.sampled_from(Effect),
    st.sampled_from(RuleAction),
    st.sampled_from(FILTERS),
    id=st.sampled_from("123456789"),
)
VALUES = st.dictionaries(
    st.sampled_from(sorted(PLACEHOLDERS)), st.one_of(st.sampled_from(("u", "", "é", "a/b", "+")), any_text())
)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def alone(rules: Sequence[Rule], values: Mapping[str, str], access: Access) -> Decision:
    """Decide rule by rule, each compiled for this principal alone."""
    publish = access.action is Action.PUBLISH
    wanted = check_topic(access.topic) if publish else check_filter(access.topic)
    for effect in (Effect.DENY, Effect.ALLOW):
        for rule in rules:
            compiled = compiled_rule(rule, values)
            if (
                compiled is None
                or rule.effect is not effect
                or rule.action not in (RuleAction.ALL, access.action.value)
            ):
                continue
            if compiled.speaks_of(wanted, access):
                return compiled.verdict
    return Deny(Reason.NO_RULE)


@given(st.lists(RULES, max_size=6), VALUES, st.sampled_from(("username", "principal", "clientid")), st.data())
@examples(300)
def test_shared_as_alone(rules: list[Rule], values: dict[str, str], name: str, data: st.DataObject) -> None:
    """Whatever the values are, and whoever had the same rules before, each rule means what it means alone."""
    others = [Policy(rules, dict.fromkeys(values, "other")), Policy([*rules, *OWN_TOPICS], {})]
    try:
        judged = Policy(rules, values)
    except Invalid:
        with pytest.raises(Invalid):
            [compiled_rule(rule, values) for rule in rules]
        return
    own = escape_level(values.get(name, "z") or "z")
    own = own if _is_text(own) else "z"
    for topic in (f"a/{own}/c", f"{own}/b", f"x-{own}-y/q", own, f"a/{own}", "a/b", f"{own}/{own}/{own}"):
        for action in Action:
            access = Access(action, topic, qos=0, retain=False)
            assert judged.decide(access) == alone(rules, values, access)
    wide = data.draw(st.sampled_from(("a/+", "+/b", "#", "a/#", "+/+/+", f"a/{own}/#")))
    access = Access(Action.SUBSCRIBE, wide, qos=0)
    assert judged.decide(access) == alone(rules, values, access)
    assert len(others) == 2


def test_compiled_once() -> None:
    """The second with the same rules has none compiled; when both have gone nothing is kept."""
    rules = tuple(Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, f"once/{number}/${{username}}") for number in range(5))
    first, second, third = (Policy(rules, values) for values in ({"username": "a"}, {"username": "b"}, {}))
    assert (first.compiled, second.compiled, third.compiled) == (5, 0, 0)
    assert (first.size, second.size, third.size) == (5, 5, 0)
    assert first.decide(Access(Action.PUBLISH, "once/1/a", qos=0, retain=False)).reason is Reason.RULE
    assert second.decide(Access(Action.PUBLISH, "once/1/a", qos=0, retain=False)).reason is Reason.NO_RULE
    del first, second, third
    gc.collect()
    assert not [key for key in module._shared if key[0] == rules]
    assert not [key for key in module._forms if key[0] in rules]


@pytest.mark.parametrize(
    "value", ["x" * 65_535, "é" * 40_000, "/" * 30_000, "\ud800"], ids=["long", "bytes", "escapes", "no text"]
)
def test_values_that_make_no_filter(value: str) -> None:
    """A value with which a rule is no filter any more is refused, also where the rules are compiled already."""
    rules = (Rule(EVERYONE, Effect.DENY, RuleAction.ALL, "refused/${username}/#"),)
    fine = Policy(rules, {"username": "x"})
    with pytest.raises(Invalid):
        Policy(rules, {"username": value})
    assert fine.size == 1


def test_a_filter_that_is_as_long_as_can_be() -> None:
    """A long filter has room for some values and not for others."""
    rules = (Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "y" * 65_500 + "/${username}"),)
    assert Policy(rules, {"username": "x"}).size == 1
    with pytest.raises(Invalid):
        Policy(rules, {"username": "x" * 100})
