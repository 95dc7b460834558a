"""The policy of one principal: its rules compiled once, then asked for every publish and subscribe.

Deny beats allow, whatever the order; what no rule allows is denied; each decision names the rule that made it. A publish is
judged by the rules that *match* its topic. A subscription is judged by what it could receive: it is allowed only when one allow
rule *covers* its filter, and denied as soon as one deny rule *overlaps* it. A rule may hold at some times or in some places only,
which is looked at anew for every request, so that a policy can be cached over the end of a time window.

Most rules hold for many principals and differ between them by the values of placeholders only. So what is compiled is shared by all
whose rules are the same: a policy itself is little more than those values, which are put in when a rule is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from companion.core.errors import Invalid
from companion.core.locations import Networks, is_within, networks_of
from companion.core.model import Access, Action, Allow, Decision, Deny, Reason
from companion.core.rules import ANY_QOS, EVERYONE, PLACEHOLDERS, Effect, Rule, RuleAction, check_limits
from companion.core.templates import Template, escape_level
from companion.core.topics import (
    MAX_TOPIC_BYTES,
    Levels,
    check_filter,
    check_topic,
    covers,
    matches,
    overlaps,
    split_share,
)
from companion.core.windows import FOREVER, Schedule, schedule_of

_NO_RULE: Final = Deny(Reason.NO_RULE)
_WILDCARDS: Final = frozenset({"+", "#"})
_NAMES: Final = tuple(sorted(PLACEHOLDERS))

_SHORT: Final = 256
"""Values of no more ASCII characters than this have room in all filters but those that are very long."""

Values = tuple[str | None, ...]
"""The escaped values of the placeholders, in the order of `_NAMES`; None for one without a value."""


class Slot(NamedTuple):
    """A level with a placeholder: which, and what stands around it."""

    number: int
    before: str
    after: str


Form = tuple[str | Slot, ...]
"""Levels some of which have a placeholder."""


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


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Compiled:
    """A rule whose placeholders have their values; or, with a `form`, one for all who have values for the same placeholders."""

    levels: Levels
    effect: Effect
    qos: frozenset[int]
    retain: bool | None
    conditions: Conditions | None
    verdict: Decision
    form: Form | None = None

    def of(self, values: Values) -> Levels:
        """Return the levels of the filter with these values."""
        if self.form is None:
            return self.levels
        return tuple(
            [part if type(part) is str else f"{part[1]}{values[part[0]]}{part[2]}" for part in self.form]  # type: ignore[index]
        )

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
            first = rule.levels[0] if rule.form is None else rule.form[0]
            if type(first) is not str or first in _WILDCARDS:
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


class _Shared:
    """What all have in common whose rules are the same, and the placeholders that have a value."""

    __slots__ = (
        "__weakref__",
        "allow_publish",
        "allow_subscribe",
        "deny_publish",
        "deny_subscribe",
        "long",
        "schedules",
        "size",
    )

    def __init__(self, rules: Sequence[Rule], present: frozenset[str]) -> None:
        tables: dict[tuple[Effect, Action], list[Compiled]] = {
            (effect, action): [] for effect in Effect for action in Action
        }
        schedules: dict[Schedule, None] = {}
        self.size = 0
        self.long = any(4 * len(rule.filter) + _SHORT * rule.filter.count("$") > MAX_TOPIC_BYTES for rule in rules)
        for rule in rules:
            compiled = _compiled_form(rule, present)
            if compiled is None:
                continue
            self.size += 1
            if compiled.conditions is not None:
                schedules |= dict.fromkeys(compiled.conditions.schedules)
            for action in Action:
                if rule.action in (RuleAction.ALL, action.value):
                    tables[rule.effect, action].append(compiled)
        self.schedules = tuple(schedules)
        self.deny_publish = _Table(tables[Effect.DENY, Action.PUBLISH])
        self.allow_publish = _Table(tables[Effect.ALLOW, Action.PUBLISH])
        self.deny_subscribe = _Table(tables[Effect.DENY, Action.SUBSCRIBE])
        self.allow_subscribe = _Table(tables[Effect.ALLOW, Action.SUBSCRIBE])


_shared: Final[WeakValueDictionary[tuple[tuple[Rule, ...], frozenset[str]], _Shared]] = WeakValueDictionary()
_forms: Final[WeakValueDictionary[tuple[Rule, frozenset[str]], Compiled]] = WeakValueDictionary()


class Policy:
    """What one principal may do. Immutable; safe to share and to cache."""

    __slots__ = ("_shared", "_values", "compiled")

    def __init__(self, rules: Iterable[Rule], values: Mapping[str, str]) -> None:
        """Compile `rules` for a principal whose placeholders have these `values`.

        An allow rule whose placeholder has no value grants nothing; a deny rule then denies every value of that level.
        Raises `Invalid` for a rule that cannot be enforced.
        """
        kept = tuple(rules)
        self._values: Values = tuple([escape_level(value) if (value := values.get(name)) else None for name in _NAMES])
        key = (kept, frozenset(name for name in _NAMES if values.get(name)))
        shared = _shared.get(key)
        self.compiled = 0
        """How many rules had to be compiled for it, which nobody had before."""
        if shared is None:
            shared = _shared[key] = _Shared(*key)
            self.compiled = shared.size
        if shared.long or not all(map(_is_short, self._values)):
            # Put in, such values may make what is no filter; mostly they cannot.
            for rule in kept:
                compiled_rule(rule, values)
        self._shared = shared

    @property
    def size(self) -> int:
        """How many rules it has."""
        return self._shared.size

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
        return min((schedule.certain_until(now) for schedule in self._shared.schedules), default=FOREVER)

    def _publish(self, topic: Levels, access: Access, now: float | None) -> Decision:
        values = self._values
        for rule in self._shared.deny_publish.near(topic):
            if matches(rule.of(values), topic) and rule.denies(access, now):
                return rule.verdict
        for rule in self._shared.allow_publish.near(topic):
            if matches(rule.of(values), topic) and rule.allows(access, now):
                return rule.verdict
        return _NO_RULE

    def _subscribe(self, wanted: Levels, access: Access, now: float | None) -> Decision:
        values = self._values
        for rule in self._shared.deny_subscribe.near(wanted):
            if overlaps(rule.of(values), wanted) and rule.denies(access, now):
                return rule.verdict
        for rule in self._shared.allow_subscribe.near(wanted):
            if covers(rule.of(values), wanted) and rule.allows(access, now):
                return rule.verdict
        return _NO_RULE


def _is_short(value: str | None) -> bool:
    return value is None or (value.isascii() and len(value) <= _SHORT)


def _compiled_form(rule: Rule, present: frozenset[str]) -> Compiled | None:
    """Return the rule for all who have values for these placeholders; None for an allow rule with another one.

    Raises `Invalid` for a rule that cannot be enforced.
    """
    compiled = _forms.get((rule, present))
    if compiled is None:
        template = check_limits(rule)
        if rule.effect is Effect.ALLOW and not present.issuperset(template.names):
            return None
        # With any values it is compiled as for anybody: what is a filter with some is one with all that are not too long.
        plain = compiled_rule(rule, dict.fromkeys(present, "x"))
        if plain is None:
            return None
        form = _form(template, present)
        compiled = plain if all(type(part) is str for part in form) else replace(plain, levels=(), form=form)
        _forms[rule, present] = compiled
    return compiled


def _form(template: Template, present: frozenset[str]) -> Form:
    """Return the levels of a template; one with a placeholder that has no value is `+`, as deny rules widen."""
    # NUL stands in no filter: it marks where a placeholder is.
    marked = "\0".join(template.literals)
    names = iter(template.names)
    parts: list[str | Slot] = []
    for level in marked.split("/"):
        before, found, after = level.partition("\0")
        if not found:
            parts.append(level)
            continue
        name = next(names)
        parts.append(Slot(_NAMES.index(name), before, after) if name in present else "+")
    return tuple(parts)


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
