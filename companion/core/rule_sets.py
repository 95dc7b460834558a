"""Sets of rules that stand in a file, beside the rules of the store or in their place. Pure.

stored = true                     # beside what the store has (the default); false: instead of it

[[rules]]
id = "porters at night"           # or else the number of the rule in the file
subject = "group:porters"         # everyone, kind:…, group:…, tenant:…, account:…
effect = "allow"
action = "publish"
filter = "doors/${username}/#"
qos = [0, 1]                      # the rest may be missing
retain = false
windows = [{ cron = "0 22 * * *", duration = 28800, timezone = "Europe/Berlin" }]
locations = ["10.0.0.0/8"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.locations import locations_of
from companion.core.policy import OWN_TOPICS
from companion.core.rules import ANY_QOS, Effect, Rule, RuleAction, check_rule
from companion.core.windows import windows_of

MAX_RULES: Final = 100_000

_SET_FIELDS: Final = ("stored", "rules")
_RULE_FIELDS: Final = (
    "id",
    "subject",
    "effect",
    "action",
    "filter",
    "qos",
    "retain",
    "windows",
    "locations",
)
_LONGEST_ID: Final = 200


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules, and whether those of the store hold as well."""

    rules: tuple[Rule, ...] = ()
    stored: bool = True
    _of: Mapping[str, tuple[Rule, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find the rules by whom they are for."""
        found: dict[str, list[Rule]] = {}
        for rule in self.rules:
            found.setdefault(rule.subject, []).append(rule)
        object.__setattr__(self, "_of", {subject: tuple(rules) for subject, rules in found.items()})

    def of(self, subjects: Sequence[str], stored: Sequence[Rule]) -> tuple[Rule, ...]:
        """Return what holds for these subjects, given the rules that the store has for them; own topics always do."""
        own = [rule for subject in dict.fromkeys(subjects) for rule in self._of.get(subject, ())]
        return (*(stored if self.stored else ()), *own, *OWN_TOPICS)


@dataclass(frozen=True, slots=True)
class RuleBook:
    """The set that is enforced, and perhaps another one beside it that only shows what it would decide."""

    enforced: RuleSet = field(default_factory=RuleSet)
    shadow: RuleSet | None = None


def parse_rule_set(text: str, origin: str, prefix: str) -> RuleSet:
    """Return the rules of a TOML text; their ids begin with `prefix:`.

    Raises `Invalid` that names `origin`, the rule and the field of the first mistake.
    """
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as problem:
        raise Invalid(origin, "its text", f"valid TOML ({problem})") from None
    for name in content:
        if name not in _SET_FIELDS:
            raise Invalid(f"{origin}.{name}", "this field", f"the fields of a rule set are {', '.join(_SET_FIELDS)}")
    stored, tables = content.get("stored", True), content.get("rules", [])
    if not isinstance(stored, bool):
        raise Invalid(f"{origin}.stored", stored, "true or false")
    if not isinstance(tables, list):
        raise Invalid(f"{origin}.rules", type(tables).__name__, "tables: [[rules]]")
    if len(tables) > MAX_RULES:
        raise Invalid(f"{origin}.rules", len(tables), f"at most {MAX_RULES} rules")
    rules: dict[str, Rule] = {}
    for number, table in enumerate(tables, 1):
        try:
            rule = _rule(table, number, prefix)
        except Invalid as problem:
            raise problem.within(f"{origin}.rules[{number}]") from None
        if rule.id in rules:
            raise Invalid(f"{origin}.rules[{number}].id", rule.id.removeprefix(f"{prefix}:"), "each id once")
        rules[rule.id] = rule
    return RuleSet(tuple(rules.values()), stored=stored)


def _rule(table: object, number: int, prefix: str) -> Rule:
    if not isinstance(table, Mapping):
        raise Invalid("rule", type(table).__name__, "a table: [[rules]]")
    for name in table:
        if name not in _RULE_FIELDS:
            raise Invalid(name, "this field", f"the fields of a rule are {', '.join(_RULE_FIELDS)}")
    name = _text(table, "id") if "id" in table else str(number)
    if not name or len(name) > _LONGEST_ID or not name.isprintable():
        raise Invalid("id", name, f"1 to {_LONGEST_ID} printable characters")
    rule = Rule(
        _text(table, "subject"),
        Effect(_one_of(table, "effect", tuple(Effect))),
        RuleAction(_one_of(table, "action", tuple(RuleAction))),
        _text(table, "filter"),
        _qos(table.get("qos")),
        _retain(table.get("retain")),
        id=f"{prefix}:{name}",
        windows=windows_of(table.get("windows", ())),
        locations=locations_of(table.get("locations", ())),
    )
    check_rule(rule)
    return rule


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str):
        raise Invalid(name, "nothing" if value is None else value, "a text")
    return value


def _one_of(table: Mapping[str, Any], name: str, allowed: Sequence[str]) -> str:
    value = _text(table, name)
    if value not in allowed:
        raise Invalid(name, value, f"one of {', '.join(allowed)}")
    return value


def _qos(value: object) -> frozenset[int]:
    if value is None:
        return ANY_QOS
    levels = value if isinstance(value, list) else [value]
    if not levels or any(type(level) is not int or level not in ANY_QOS for level in levels):
        raise Invalid("qos", value, "one or more of 0, 1, 2")
    return frozenset(levels)


def _retain(value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise Invalid("retain", value, "true or false")
