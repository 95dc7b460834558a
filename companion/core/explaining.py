"""Why a decision came out as it did. Pure.

The decision is that of `Policy.decide`, made from the same rules by the same compiler; what is said of each rule beside it is found
by asking that rule, with all of its limits but one lifted, whether it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from companion.core.errors import Invalid
from companion.core.model import Access, Action, Decision
from companion.core.policy import Compiled, Conditions, Policy, compiled_rule
from companion.core.rules import ANY_QOS, Effect, Rule, RuleAction
from companion.core.topics import Levels, check_filter, check_topic, split_share


class Miss(StrEnum):
    """Why a rule did not hold."""

    VALUE = "value"
    """A placeholder of an allow rule has no value for this principal."""

    TOPIC = "topic"
    QOS = "qos"
    RETAIN = "retain"
    TIME = "time"
    LOCATION = "location"


class Outcome(StrEnum):
    """What became of a rule."""

    DECIDED = "decided"
    BEATEN = "beaten"
    """It held as well, but another one had decided."""

    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Considered:
    """One rule. `filter` is the rendered one, empty where a placeholder has no value; `misses` is all that kept it from holding."""

    rule: Rule
    filter: str
    outcome: Outcome
    misses: tuple[Miss, ...] = ()

    @property
    def near(self) -> bool:
        """Whether it had to do with the topic."""
        return not {Miss.VALUE, Miss.TOPIC} & set(self.misses)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and every rule that speaks about the action, in the order in which they are tried: denials first.

    `values` are those of the placeholders; `rules` is empty for a topic that is invalid.
    """

    decision: Decision
    values: Mapping[str, str]
    rules: tuple[Considered, ...]


def explain(rules: Iterable[Rule], values: Mapping[str, str], access: Access, now: float | None) -> Explanation:
    """Return what `Policy(rules, values).decide(access, now)` decides, and why."""
    kept = tuple(rules)
    decision = Policy(kept, values).decide(access, now)
    wanted = _wanted(access)
    if wanted is None:
        return Explanation(decision, dict(values), ())
    considered: list[Considered] = []
    decided = False
    for effect in (Effect.DENY, Effect.ALLOW):
        for rule in kept:
            if rule.effect is not effect or rule.action not in (RuleAction.ALL, access.action.value):
                continue
            compiled = compiled_rule(rule, values)
            if compiled is None:
                considered.append(Considered(rule, "", Outcome.MISSED, (Miss.VALUE,)))
                continue
            misses = _misses(compiled, wanted, access, now)
            # Of those that hold the first one decides.
            outcome = Outcome.MISSED if misses else Outcome.BEATEN if decided else Outcome.DECIDED
            decided = decided or not misses
            considered.append(Considered(rule, "/".join(compiled.levels), outcome, misses))
    return Explanation(decision, dict(values), tuple(considered))


def _wanted(access: Access) -> Levels | None:
    try:
        if access.action is Action.PUBLISH:
            return check_topic(access.topic)
        return check_filter(split_share(access.topic)[1])
    except Invalid:
        return None


_NO_LIMITS: Final = Conditions((), ())


def _misses(rule: Compiled, wanted: Levels, access: Access, now: float | None) -> tuple[Miss, ...]:
    free = replace(rule, qos=ANY_QOS, retain=None, conditions=None)
    conditions = rule.conditions or _NO_LIMITS
    single = {
        Miss.QOS: replace(free, qos=rule.qos),
        Miss.RETAIN: replace(free, retain=rule.retain),
        Miss.TIME: replace(free, conditions=replace(conditions, networks=())),
        Miss.LOCATION: replace(free, conditions=replace(conditions, schedules=())),
    }
    misses = [] if rule.speaks_of(wanted, access) else [Miss.TOPIC]
    misses += [
        miss
        for miss, one in single.items()
        if not (one.allows(access, now) if rule.effect is Effect.ALLOW else one.denies(access, now))
    ]
    return tuple(misses)
