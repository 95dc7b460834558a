"""The policy of one principal: its rules compiled once, then asked for every publish and subscribe.

Deny beats allow, whatever the order; what no rule allows is denied; each decision names the rule that made it. A publish is
judged by the rules that *match* its topic. A subscription is judged by what it could receive: it is allowed only when one allow
rule *covers* its filter, and denied as soon as one deny rule *overlaps* it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from companion.core.errors import Invalid
from companion.core.model import Access, Action, Allow, Decision, Deny, Reason
from companion.core.rules import ANY_QOS, EVERYONE, Effect, Rule, RuleAction, check_limits
from companion.core.topics import Levels, check_filter, check_topic, covers, matches, overlaps, split_share

_NO_RULE: Final = Deny(Reason.NO_RULE)
_WILDCARDS: Final = frozenset({"+", "#"})


@dataclass(frozen=True, slots=True)
class _Compiled:
    levels: Levels
    qos: frozenset[int]
    retain: bool | None
    verdict: Decision

    def allows(self, qos: int | None, retain: bool | None) -> bool:  # noqa: FBT001 - the two limits of a rule, in order
        """Tell whether an allow rule holds; a value that the broker did not tell meets only a rule without that limit."""
        in_qos = self.qos == ANY_QOS if qos is None else qos in self.qos
        return in_qos and self.retain in (None, retain)

    def denies(self, qos: int | None, retain: bool | None) -> bool:  # noqa: FBT001 - likewise
        """Tell whether a deny rule holds; a value that the broker did not tell may be the denied one."""
        return (qos is None or qos in self.qos) and (retain is None or self.retain in (None, retain))


class _Table:
    """The compiled rules of one effect and action in their order, found by the first level of what is asked for.

    Most rules begin with a literal, so that of many rules only a few have to be looked at.
    """

    __slots__ = ("_all", "_by_first", "_wild")

    def __init__(self, rules: Sequence[_Compiled]) -> None:
        wild: list[_Compiled] = []
        by_first: dict[str, list[_Compiled]] = {}
        for rule in rules:
            first = rule.levels[0]
            if first in _WILDCARDS:
                wild.append(rule)
                for some in by_first.values():
                    some.append(rule)
            else:
                by_first.setdefault(first, wild.copy()).append(rule)
        self._all = tuple(rules)
        self._wild = tuple(wild)
        self._by_first = {first: tuple(some) for first, some in by_first.items()}

    def near(self, levels: Levels) -> tuple[_Compiled, ...]:
        """Return the rules that may speak about this topic name or filter."""
        first = levels[0]
        return self._all if first in _WILDCARDS else self._by_first.get(first, self._wild)


class Policy:
    """What one principal may do. Immutable; safe to share and to cache."""

    __slots__ = ("_allow_publish", "_allow_subscribe", "_deny_publish", "_deny_subscribe", "size")

    def __init__(self, rules: Iterable[Rule], values: Mapping[str, str]) -> None:
        """Compile `rules` for a principal whose placeholders have these `values`.

        An allow rule whose placeholder has no value grants nothing; a deny rule then denies every value of that level.
        Raises `Invalid` for a rule that cannot be enforced.
        """
        tables: dict[tuple[Effect, Action], list[_Compiled]] = {
            (effect, action): [] for effect in Effect for action in Action
        }
        self.size = 0
        for rule in rules:
            compiled = _compile(rule, values)
            if compiled is None:
                continue
            self.size += 1
            for action in Action:
                if rule.action in (RuleAction.ALL, action.value):
                    tables[rule.effect, action].append(compiled)
        self._deny_publish = _Table(tables[Effect.DENY, Action.PUBLISH])
        self._allow_publish = _Table(tables[Effect.ALLOW, Action.PUBLISH])
        self._deny_subscribe = _Table(tables[Effect.DENY, Action.SUBSCRIBE])
        self._allow_subscribe = _Table(tables[Effect.ALLOW, Action.SUBSCRIBE])

    def decide(self, access: Access) -> Decision:
        """Judge one publish or subscribe. An invalid topic is a denial, not an error."""
        try:
            if access.action is Action.PUBLISH:
                return self._publish(check_topic(access.topic), access.qos, access.retain)
            return self._subscribe(check_filter(split_share(access.topic)[1]), access.qos)
        except Invalid as problem:
            return Deny(Reason.INVALID_TOPIC, detail=problem.allowed)

    def _publish(self, topic: Levels, qos: int | None, retain: bool | None) -> Decision:  # noqa: FBT001 - as in Access
        for rule in self._deny_publish.near(topic):
            if matches(rule.levels, topic) and rule.denies(qos, retain):
                return rule.verdict
        for rule in self._allow_publish.near(topic):
            if matches(rule.levels, topic) and rule.allows(qos, retain):
                return rule.verdict
        return _NO_RULE

    def _subscribe(self, wanted: Levels, qos: int | None) -> Decision:
        for rule in self._deny_subscribe.near(wanted):
            if overlaps(rule.levels, wanted) and (qos is None or qos in rule.qos):
                return rule.verdict
        for rule in self._allow_subscribe.near(wanted):
            if covers(rule.levels, wanted) and (rule.qos == ANY_QOS if qos is None else qos in rule.qos):
                return rule.verdict
        return _NO_RULE


def _compile(rule: Rule, values: Mapping[str, str]) -> _Compiled | None:
    template = check_limits(rule)
    verdict: Decision
    if rule.effect is Effect.DENY:
        text: str | None = template.widen(values)
        verdict = Deny(Reason.DENIED_BY_RULE, rule=rule.id)
    else:
        text = template.render(values)
        verdict = Allow(rule.reason, rule=rule.id)
    if text is None:
        return None
    return _Compiled(check_filter(text), rule.qos, rule.retain, verdict)


OWN_TOPICS: Final = (
    Rule(EVERYONE, Effect.ALLOW, RuleAction.SUBSCRIBE, "${principal}/#", id="own:principal", reason=Reason.OWN_TOPIC),
    Rule(
        EVERYONE,
        Effect.ALLOW,
        RuleAction.PUBLISH,
        "${principal}/${session}/#",
        id="own:session",
        reason=Reason.OWN_TOPIC,
    ),
)
"""What every principal may do without a stored rule: subscribe to everything below its own id, and, in a platform session, publish
below `{principal}/{session}/`. A stored deny rule still beats them."""
