"""The policy of one principal: its rules compiled once, then asked for every publish and subscribe.

Deny beats allow, whatever the order; what no rule allows is denied; each decision names the rule that made it. A publish is
judged by the rules that *match* its topic. A subscription is judged by what it could receive: it is allowed only when one allow
rule *covers* its filter, and denied as soon as one deny rule *overlaps* it. A rule may hold at some times or in some places only,
which is looked at anew for every request, so that a policy can be cached over the end of a time window.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from companion.core.errors import Invalid
from companion.core.locations import Networks, is_within, networks_of
from companion.core.model import Access, Action, Allow, Decision, Deny, Reason
from companion.core.rules import ANY_QOS, EVERYONE, Effect, Rule, RuleAction, check_limits
from companion.core.topics import Levels, check_filter, check_topic, covers, matches, overlaps, split_share
from companion.core.windows import FOREVER, Schedule, schedule_of

_NO_RULE: Final = Deny(Reason.NO_RULE)
_WILDCARDS: Final = frozenset({"+", "#"})


@dataclass(frozen=True, slots=True)
class Conditions:
    """When and from where a rule holds; without schedules always, without networks from everywhere."""

    schedules: tuple[Schedule, ...]
    networks: Networks

    def in_time(self, now: float | None) -> bool | None:
        """Tell whether it holds at this time (Unix seconds); None when the time is not known."""
        if not self.schedules:
            return True
        return None if now is None else any(schedule.is_open(now) for schedule in self.schedules)

    def in_place(self, peer_host: str) -> bool | None:
        """Tell whether it holds for a client that connects from there; None for what is no address."""
        return is_within(peer_host, self.networks) if self.networks else True


@dataclass(frozen=True, slots=True)
class Compiled:
    """A rule whose placeholders have their values."""

    levels: Levels
    effect: Effect
    qos: frozenset[int]
    retain: bool | None
    conditions: Conditions | None
    verdict: Decision

    def allows(self, access: Access, now: float | None) -> bool:
        """Tell whether an allow rule holds; what is not known (QoS, retain, time, address) meets only a rule without that limit."""
        qos = access.qos
        if not (self.qos == ANY_QOS if qos is None else qos in self.qos):
            return False
        if access.action is Action.PUBLISH and self.retain not in (None, access.retain):
            return False
        conditions = self.conditions
        return conditions is None or bool(conditions.in_time(now) and conditions.in_place(access.peer_host))

    def denies(self, access: Access, now: float | None) -> bool:
        """Tell whether a deny rule holds; what is not known may be what is denied."""
        qos, retain = access.qos, access.retain
        if not (qos is None or qos in self.qos):
            return False
        if access.action is Action.PUBLISH and not (retain is None or self.retain in (None, retain)):
            return False
        conditions = self.conditions
        return conditions is None or (
            conditions.in_time(now) is not False and conditions.in_place(access.peer_host) is not False
        )

    def speaks_of(self, wanted: Levels, access: Access) -> bool:
        """Tell whether the filter has to do with this topic name or filter: an allow covers it, a deny overlaps it."""
        if access.action is Action.PUBLISH:
            return matches(self.levels, wanted)
        return covers(self.levels, wanted) if self.effect is Effect.ALLOW else overlaps(self.levels, wanted)


class _Table:
    """The compiled rules of one effect and action in their order, found by the first level of what is asked for.

    Most rules begin with a literal, so that of many rules only a few have to be looked at.
    """

    __slots__ = ("_all", "_by_first", "_wild")

    def __init__(self, rules: Sequence[Compiled]) -> None:
        wild: list[Compiled] = []
        by_first: dict[str, list[Compiled]] = {}
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

    def near(self, levels: Levels) -> tuple[Compiled, ...]:
        """Return the rules that may speak about this topic name or filter."""
        first = levels[0]
        return self._all if first in _WILDCARDS else self._by_first.get(first, self._wild)


class Policy:
    """What one principal may do. Immutable; safe to share and to cache."""

    __slots__ = ("_allow_publish", "_allow_subscribe", "_deny_publish", "_deny_subscribe", "_schedules", "size")

    def __init__(self, rules: Iterable[Rule], values: Mapping[str, str]) -> None:
        """Compile `rules` for a principal whose placeholders have these `values`.

        An allow rule whose placeholder has no value grants nothing; a deny rule then denies every value of that level.
        Raises `Invalid` for a rule that cannot be enforced.
        """
        tables: dict[tuple[Effect, Action], list[Compiled]] = {
            (effect, action): [] for effect in Effect for action in Action
        }
        schedules: dict[Schedule, None] = {}
        self.size = 0
        for rule in rules:
            compiled = compiled_rule(rule, values)
            if compiled is None:
                continue
            self.size += 1
            if compiled.conditions is not None:
                schedules |= dict.fromkeys(compiled.conditions.schedules)
            for action in Action:
                if rule.action in (RuleAction.ALL, action.value):
                    tables[rule.effect, action].append(compiled)
        self._schedules = tuple(schedules)
        self._deny_publish = _Table(tables[Effect.DENY, Action.PUBLISH])
        self._allow_publish = _Table(tables[Effect.ALLOW, Action.PUBLISH])
        self._deny_subscribe = _Table(tables[Effect.DENY, Action.SUBSCRIBE])
        self._allow_subscribe = _Table(tables[Effect.ALLOW, Action.SUBSCRIBE])

    def decide(self, access: Access, now: float | None = None) -> Decision:
        """Judge one publish or subscribe at this time (Unix seconds). An invalid topic is a denial, not an error.

        Without a time no rule allows that is limited to some times, and every such rule denies.
        """
        try:
            if access.action is Action.PUBLISH:
                return self._publish(check_topic(access.topic), access, now)
            return self._subscribe(check_filter(split_share(access.topic)[1]), access, now)
        except Invalid as problem:
            return Deny(Reason.INVALID_TOPIC, detail=problem.allowed)

    def certain_until(self, now: float) -> float:
        """Return until when (Unix seconds, after `now`) no verdict changes by the passing of time; infinity for never.

        Mostly that is when the next time window opens or closes; it may be earlier, never later.
        """
        return min((schedule.certain_until(now) for schedule in self._schedules), default=FOREVER)

    def _publish(self, topic: Levels, access: Access, now: float | None) -> Decision:
        for rule in self._deny_publish.near(topic):
            if matches(rule.levels, topic) and rule.denies(access, now):
                return rule.verdict
        for rule in self._allow_publish.near(topic):
            if matches(rule.levels, topic) and rule.allows(access, now):
                return rule.verdict
        return _NO_RULE

    def _subscribe(self, wanted: Levels, access: Access, now: float | None) -> Decision:
        for rule in self._deny_subscribe.near(wanted):
            if overlaps(rule.levels, wanted) and rule.denies(access, now):
                return rule.verdict
        for rule in self._allow_subscribe.near(wanted):
            if covers(rule.levels, wanted) and rule.allows(access, now):
                return rule.verdict
        return _NO_RULE


def compiled_rule(rule: Rule, values: Mapping[str, str]) -> Compiled | None:
    """Return the rule for a principal whose placeholders have these values; None for an allow rule without one of them.

    Raises `Invalid` for a rule that cannot be enforced.
    """
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
    conditions = (
        Conditions(tuple(map(schedule_of, rule.windows)), networks_of(rule.locations)) if rule.conditional else None
    )
    return Compiled(check_filter(text), rule.effect, rule.qos, rule.retain, conditions, verdict)


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

SUPERUSER: Final = tuple(
    # `#` does not match topics that begin with `$` (MQTT 5 §4.7.2).
    Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, everything, id="own:superuser")
    for everything in ("#", "$SYS/#")
)
"""What the account of a superuser may do: whatever no rule denies."""
