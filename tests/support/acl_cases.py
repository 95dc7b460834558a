"""Policies and requests that meet each other often, and whether EMQX's list and our policy agree on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

from hypothesis import strategies as st

from companion.core.acl import NotExact, compile_acl
from companion.core.errors import Invalid
from companion.core.model import Access, Action, Allow
from companion.core.policy import OWN_TOPICS, Policy
from companion.core.rules import ANY_QOS, EVERYONE, Effect, Rule, RuleAction, check_rule
from tests.support import emqx_matcher
from tests.support.policies import QOS_SETS

_LEVELS = ("a", "b", "", "$x", "$SYS", "+", "${username}", "${principal}", "${clientid}", "${session}")
_NAMES = ("username", "clientid", "principal", "session")
_VALUES = ("a", "b", "c", "a/b", "+", "#", "$x", "é")
_ODD_VALUES = ("eq a", "a${username}", "${clientid}", "", None)
MOST_TOPICS, MOST_BYTES = 64, 16_384


def _is_rule(rule: Rule) -> bool:
    try:
        check_rule(rule)
    except Invalid:
        return False
    return True


_ALL_FILTERS = [
    "/".join((*levels, *tail))
    for depth in range(4)
    for levels in product(_LEVELS, repeat=depth)
    for tail in ((), ("#",))
    if (levels or tail) and (*levels, *tail) != ("",)
]
FILTERS = tuple(text for text in _ALL_FILTERS if _is_rule(Rule(EVERYONE, Effect.DENY, RuleAction.ALL, text)))
_LITERAL = tuple(text for text in FILTERS if "${" not in text)
_SHALLOW = tuple(text for text in _LITERAL if text.count("/") < 2)
_CLOSE = tuple(text for text in _LITERAL if set(text) <= set("a+#/") and "//" not in text)
"""These meet each other nearly always."""

_ANY_RULE = st.builds(
    Rule,
    st.just(EVERYONE),
    st.sampled_from((Effect.ALLOW, Effect.ALLOW, Effect.DENY)),
    st.sampled_from((RuleAction.SUBSCRIBE, RuleAction.ALL, RuleAction.PUBLISH)),
    st.one_of(st.sampled_from(_CLOSE), st.sampled_from(_SHALLOW), st.sampled_from(_LITERAL), st.sampled_from(FILTERS)),
    st.sampled_from((*[ANY_QOS] * 4, *QOS_SETS)),
    st.sampled_from((None, None, None, True, False)),
)
_VALUE = st.one_of(*[st.sampled_from(_VALUES)] * 4, st.sampled_from(_ODD_VALUES))


def rule_sets() -> st.SearchStrategy[list[Rule]]:
    """Return up to six rules with placeholders, and mostly what every principal may do beside them."""
    some = st.lists(_ANY_RULE, max_size=6)
    return st.one_of(some, some.map(lambda rules: [*rules, *OWN_TOPICS]))


def value_sets() -> st.SearchStrategy[dict[str, str]]:
    """Return what the placeholders stand for; some have no value."""
    return st.tuples(*[_VALUE] * len(_NAMES)).map(
        lambda values: {name: value for name, value in zip(_NAMES, values, strict=True) if value is not None}
    )


def requests_near(
    random: Random, rules: Sequence[Rule], values: Mapping[str, str], count: int
) -> Iterator[tuple[Action, str, int, bool]]:
    """Yield requests (action, topic, QoS, retain) that differ from the rules' filters in a level or two."""
    texts = [check_rule(rule).widen(values) for rule in rules] or ["a/b"]
    for _ in range(count):
        levels = [_changed(level, random) for level in random.choice(texts).split("/")]
        if random.random() < 0.2:
            levels.append(random.choice(("a", "b", "+", "", "c")))
        if len(levels) > 1 and random.random() < 0.2:
            levels.pop()
        action = random.choice((Action.SUBSCRIBE, Action.SUBSCRIBE, Action.PUBLISH))
        if action is Action.PUBLISH:
            levels = [random.choice(("a", "b", "c", "")) if level in ("+", "#") else level for level in levels]
        elif random.random() < 0.3:
            levels[-1 if random.random() < 0.7 else len(levels) :] = ["#"]
        if random.random() < 0.03:
            yield action, "", random.randrange(3), random.random() < 0.5
        topic = "/".join(
            "+" if level == "#" and index < len(levels) - 1 else level for index, level in enumerate(levels)
        )
        if topic:
            yield action, topic, random.randrange(3), random.random() < 0.5


def _changed(level: str, random: Random) -> str:
    if random.random() < 0.6:
        return level
    return random.choice(("a", "b", "c", "", "$x", "$SYS", "$other", "+", "+", "#"))


@dataclass(frozen=True, slots=True)
class Compared:
    """What the broker does with a list, and what our policy says: allowed or not. `told`: the list decided."""

    listed: bool
    ours: bool
    told: bool

    @property
    def agree(self) -> bool:
        """Whether they say the same, and nothing that we allow is left to others."""
        return self.listed == self.ours


class Both:
    """One principal, judged by the list and by the policy."""

    def __init__(self, rules: Sequence[Rule], values: Mapping[str, str]) -> None:
        self._policy = Policy(rules, values)
        self._client = {name: values[name] for name in ("username", "clientid") if name in values}
        answer = compile_acl(rules, values, max_topics=MOST_TOPICS, max_bytes=MOST_BYTES)
        self.refused = answer if isinstance(answer, NotExact) else None
        self._lines = emqx_matcher.read(answer) if isinstance(answer, bytes) else []

    def compare(self, action: Action, topic: str, qos: int, *, retain: bool = False) -> Compared:
        """Ask both."""
        told = emqx_matcher.decide(self._lines, self._client, action.value, topic, qos, retain=retain)
        decision = self._policy.decide(Access(action, topic, qos=qos, retain=retain))
        return Compared(told == "allow", isinstance(decision, Allow), told is not None)
