"""EMQX's claim `acl` as rules, in both of its formats. Pure.

    {"pub": ["a/${clientid}"], "sub": ["b/#"], "all": ["c"]}                    before 5.5: these topics and no others
    [{"permission": "allow", "action": "publish", "topic": "a/${clientid}"}]    from 5.5 on: these, then whatever else holds

The issuer wrote it for EMQX, where the first rule that matches decides. Here deny beats allow as everywhere; what our rules
cannot say exactly is taken for the worse: an allowance that is limited to an address, say, or to one wildcard filter literally
(`eq a/#`), allows nothing; a denial holds without its limits. A claim that nobody can understand refuses the login, as it does
in EMQX.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.rules import ANY_QOS, Effect, Rule, RuleAction, check_limits

_OLD: Final = {"pub": RuleAction.PUBLISH, "sub": RuleAction.SUBSCRIBE, "all": RuleAction.ALL}
_KNOWN: Final = frozenset({"permission", "action", "topic", "topics", "qos", "retain"})
_IGNORED: Final = frozenset({"clientid", "username"})
"""EMQX does not look at them either."""

_LITERALLY: Final = "eq "
_RETAIN: Final[Mapping[Any, bool | None]] = {True: True, False: False, "true": True, "false": False, "all": None}
_SUBJECT: Final = "token"
_MOST: Final = 2000
"""Rules of one claim; a session's policy has to stay small."""


@dataclass(frozen=True, slots=True)
class AclClaim:
    """The rules of a claim. With `only`, nothing else allows anything; denials of others hold all the same."""

    rules: tuple[Rule, ...] = ()
    only: bool = False


NO_CLAIM: Final = AclClaim()


def rules_of_claim(claim: object) -> AclClaim:
    """Return the rules of a claim (a JSON value). Raises `Invalid` naming the part that cannot be understood."""
    if isinstance(claim, Mapping):
        found = tuple(_of_object(claim))
    elif isinstance(claim, list):
        found = tuple(rule for number, one in enumerate(claim) for rule in _of_entry(one, number))
    else:
        raise Invalid("acl", type(claim).__name__, "an object of lists (pub, sub, all) or a list of rules")
    if len(found) > _MOST:
        raise Invalid("acl", len(found), f"at most {_MOST} topics")
    return AclClaim(found, only=isinstance(claim, Mapping))


def acl_in_session(text: str) -> AclClaim:
    """Return the rules of a claim that a session keeps as JSON; what is none allows nothing."""
    if not text:
        return NO_CLAIM
    try:
        return rules_of_claim(json.loads(text))
    except (Invalid, ValueError, RecursionError):
        # It was understood when the session began: somebody else wrote it since.
        return AclClaim(only=True)


def _of_object(claim: Mapping[str, Any]) -> Iterator[Rule]:
    for name, action in _OLD.items():
        for number, topic in enumerate(_texts(claim.get(name, []), f"acl.{name}")):
            # Placeholders as 4.x wrote them are understood here, and only here.
            ours = topic.replace("%u", "${username}").replace("%c", "${clientid}")
            yield from _sound(Rule(_SUBJECT, Effect.ALLOW, action, ours, id=f"acl.{name}:{number}"), literal=False)


def _of_entry(entry: object, number: int) -> Iterator[Rule]:
    place = f"acl[{number}]"
    if not isinstance(entry, Mapping):
        raise Invalid(place, type(entry).__name__, "an object with permission, action and topic")
    effect = _one_of(Effect, entry.get("permission"), f"{place}.permission")
    action = _one_of(RuleAction, entry.get("action"), f"{place}.action")
    single, several = entry.get("topic"), entry.get("topics")
    topics = several if single is None else [single, *(several if isinstance(several, list) else [])]
    qos, retain = _qos(entry.get("qos"), place), _retain(entry.get("retain"), place)
    limited = bool(set(entry) - _KNOWN - _IGNORED)
    for topic in _texts(topics, f"{place}.topic"):
        filter_of = topic.removeprefix(_LITERALLY)
        rule = Rule(_SUBJECT, effect, action, filter_of, qos, retain, id=f"acl:{number}")
        if not (limited and effect is Effect.ALLOW):
            yield from _sound(rule, literal=filter_of != topic)


def _sound(rule: Rule, *, literal: bool) -> Iterator[Rule]:
    """Yield a rule that can be enforced; raise `Invalid` for a denial that cannot."""
    if rule.effect is Effect.ALLOW and literal and any(level in {"+", "#"} for level in rule.filter.split("/")):
        return
    try:
        check_limits(rule)
    except Invalid:
        if rule.effect is Effect.DENY:
            raise
        return
    yield rule


def _one_of(kind: type[Effect | RuleAction], value: object, place: str) -> Any:  # noqa: ANN401 - one of that kind
    try:
        return kind(str(value))
    except ValueError:
        raise Invalid(place, value, " or ".join(one.value for one in kind)) from None


def _texts(value: object, place: str) -> Sequence[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Invalid(place, type(value).__name__, "a list of topic filters")
    return value


def _qos(value: object, place: str) -> frozenset[int]:
    if value is None or value == "all":
        return ANY_QOS
    listed = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    levels = {"0": 0, "1": 1, "2": 2, 0: 0, 1: 1, 2: 2}
    try:
        found = frozenset(levels[one.strip() if isinstance(one, str) else one] for one in listed)
    except (KeyError, TypeError):
        found = frozenset()
    if not found:
        raise Invalid(f"{place}.qos", value, "0, 1, 2, a list of them, or all")
    return found


def _retain(value: object, place: str) -> bool | None:
    if value is None:
        return None
    try:
        # 1 and 0 are equal to, and found as, True and False.
        return _RETAIN[value]
    except (KeyError, TypeError):
        raise Invalid(f"{place}.retain", value, "true, false or all") from None
