"""A policy as the `acl` of EMQX's connect answer (5.8 and later), for those policies that it says exactly.

With such a list the broker judges every publish and subscribe of the session itself: one request instead of one for each topic.
But its matcher is not ours. It takes a wanted filter for a name in which `#` is a word like any other, so that

* *an allow rule grants too much*: `a/+` also grants `a/#`, for `+` takes any word (`a/+/#` grants it as well);
* *a deny rule stops too little*: `a/b` does not stop `a/#` or `a/+`, which would receive `a/b`.

For what it matches a deny rule is right, and nothing that we allow is ever stopped. What slips through is stopped by rules that
compare literally (`deny` `eq a/#`), placed first, as long as it is a limited number of filters: of `+/x/+` every `{any}/x/#` slips
through, and there is no rule for that. Such a policy is not put into a list; the principal is asked about request by request.

The list ends with a denial of everything. The one thing that can match nothing in it is a topic whose first level begins with `$`
and is none of `BROKER_ROOTS`: no filter of EMQX's means all of those. It goes on to the authorization sources and `no_match`, which
is right either way: what our policy allows is in the list. (`$share` is none of them: EMQX takes it off before it looks, and what
begins with it all the same, behind `$exclusive/`, is left to the hooks.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Final

from companion.core.rules import ANY_QOS, Effect, Rule, RuleAction, check_limits
from companion.core.topics import Levels, check_filter, covers, overlaps

BROKER_ROOTS: Final = (
    "$SYS",
    "$queue",
    "$exclusive",
    "$delayed",
    "$file",
    "$file-async",
    "$q",
    "$s",
    "$stream",
    "$events",
    "$bridges",
)
"""First levels that mean something to EMQX itself, in one of its versions; `#` covers none of them (MQTT 5 §4.7.2)."""

_KNOWN: Final = frozenset({"subject", "effect", "action", "filter", "qos", "retain", "id", "reason"})
"""The fields of a rule that are put into a list, or say nothing about when it holds."""

_LIMITS: Final = tuple(one for one in fields(Rule) if one.name not in _KNOWN)
"""Any other field limits when a rule holds, and a list cannot say it (`companion.core.acl_moment` takes times and places out)."""

_WILDCARDS: Final = ("+", "#")


class Inexact(StrEnum):
    """Why a policy cannot be put into a list."""

    CONDITION = "condition"
    """A rule has a limit that a list cannot hold, or a time window that opens or closes in a moment."""
    PLACEHOLDER = "placeholder"
    """A topic holds `${`, which EMQX would fill in."""
    LITERAL_PREFIX = "literal_prefix"
    """A topic begins with `eq `, which EMQX would take for its own word."""
    WILDCARD_PREFIX = "wildcard_prefix"
    """An allow rule for subscribing has a last `+` behind another wildcard, and grants more than can be listed."""
    PARTIAL_DENIAL = "partial_denial"
    """A deny rule for subscribing speaks about a part of what is allowed, and misses more than can be listed."""
    TOO_MANY = "too_many"
    """More topics than the broker should look through."""
    TOO_LONG = "too_long"
    """More bytes than the broker should keep for a session."""


@dataclass(frozen=True, slots=True)
class NotExact:
    """No list. `rule` names the rule that is to blame where there is one."""

    why: Inexact
    rule: str = ""


@dataclass(frozen=True, slots=True)
class _Grant:
    """A rule of one principal, for one action."""

    text: str
    levels: Levels
    qos: frozenset[int]
    retain: bool | None
    rule: str


_NAMELESS: Final = _Grant("eq ", ("",), ANY_QOS, None, "")
"""The empty topic, which is none (MQTT 5 §4.7.3): it is what EMQX looks for when a client sends `$queue/` or `$delayed/1/`."""


class _Refusal(Exception):
    def __init__(self, why: Inexact, rule: str = "") -> None:
        self.answer = NotExact(why, rule)
        super().__init__(why)


class Endless(Exception):
    """More filters slip past a deny rule than can be listed."""


def compile_acl(
    rules: Iterable[Rule], values: Mapping[str, str], *, max_topics: int, max_bytes: int
) -> bytes | NotExact:
    """Return the list as JSON, never empty: the whole policy of a principal whose placeholders have these `values`.

    The rules mean what they mean in `Policy`: allow without a value grants nothing, deny without one denies every value. Raises
    `Invalid` for a rule that cannot be enforced.
    """
    try:
        rendered = _rendered(rules, values, max_topics)
        subscribe, publish = (_of(rendered, action) for action in (RuleAction.SUBSCRIBE, RuleAction.PUBLISH))
        denied, allowed = subscribe
        allowed = _alive(denied, allowed)
        slips = list(_compensations(*subscribe, allowed, max_topics))
        nameless = [_NAMELESS] if any(covers(one.levels, _NAMELESS.levels) for one in (*allowed, *publish[1])) else []
        lines = _Lines(max_topics)
        lines.add("deny", [*nameless, *slips], nameless)
        lines.add("deny", denied, publish[0])
        lines.add("allow", allowed, publish[1])
        lines.end()
    except _Refusal as refusal:
        return refusal.answer
    text = json.dumps(lines.all, separators=(",", ":"), ensure_ascii=False).encode()
    return text if len(text) <= max_bytes else NotExact(Inexact.TOO_LONG)


_Rendered = Sequence[tuple[Rule, _Grant]]


def _rendered(rules: Iterable[Rule], values: Mapping[str, str], most: int) -> _Rendered:
    result = []
    for rule in rules:
        template = check_limits(rule)
        text = template.widen(values) if rule.effect is Effect.DENY else template.render(values)
        if text is None:
            continue
        if any(getattr(rule, one.name) != one.default for one in _LIMITS):
            raise _Refusal(Inexact.CONDITION, rule.id)
        if "${" in text:
            raise _Refusal(Inexact.PLACEHOLDER, rule.id)
        if text.startswith("eq "):
            raise _Refusal(Inexact.LITERAL_PREFIX, rule.id)
        result.append((rule, _Grant(text, check_filter(text), rule.qos, rule.retain, rule.id)))
        # Before rules are compared with each other, which takes the square of their number.
        if len(result) > most:
            raise _Refusal(Inexact.TOO_MANY)
    return result


def _of(rendered: _Rendered, action: RuleAction) -> tuple[list[_Grant], list[_Grant]]:
    """Return the deny and the allow rules for publishing or subscribing."""
    denied: list[_Grant] = []
    allowed: list[_Grant] = []
    for rule, grant in rendered:
        if rule.action in (action, RuleAction.ALL):
            one = replace(grant, retain=None) if action is RuleAction.SUBSCRIBE else grant
            (denied if rule.effect is Effect.DENY else allowed).append(one)
    return denied, allowed


def _alive(denied: Sequence[_Grant], allowed: Sequence[_Grant]) -> list[_Grant]:
    """Leave out the allow rules for subscribing that change nothing: denied as a whole, or within another one."""
    left = []
    for grant in allowed:
        dead = {qos for one in denied if covers(one.levels, grant.levels) for qos in one.qos}
        if grant.qos - dead:
            left.append(replace(grant, qos=grant.qos - dead))
    return [one for index, one in enumerate(left) if not _within_another(one, index, left)]


def _within_another(grant: _Grant, index: int, others: Sequence[_Grant]) -> bool:
    for place, other in enumerate(others):
        if place != index and other.qos >= grant.qos and covers(other.levels, grant.levels):
            same = other.qos == grant.qos and covers(grant.levels, other.levels)
            if not same or place < index:
                return True
    return False


def _compensations(
    denied: Sequence[_Grant], granted: Sequence[_Grant], allowed: Sequence[_Grant], most: int
) -> Iterator[_Grant]:
    """Yield, as literal denials, the filters that the `allowed` rules let through in EMQX and not in our policy.

    `granted` are all allow rules for subscribing, `allowed` those that are put into the list.
    """
    for grant in allowed:
        surplus = surplus_of(grant.levels)
        if surplus is not None:
            legal = {qos for one in granted if covers(one.levels, surplus) for qos in one.qos}
            if grant.qos - legal:
                if "+" in surplus:
                    raise _Refusal(Inexact.WILDCARD_PREFIX, grant.rule)
                yield _literally(surplus, grant.qos - legal, grant.rule)
        for one in denied:
            if one.qos & grant.qos and overlaps(one.levels, grant.levels):
                yield from _slips(one, grant, most)


def _slips(deny: _Grant, allow: _Grant, most: int) -> Iterator[_Grant]:
    try:
        for count, missed in enumerate(missed_by(deny.levels, allow.levels), 1):
            if count > most:
                raise _Refusal(Inexact.TOO_MANY)
            yield _literally(missed, deny.qos & allow.qos, deny.rule)
    except Endless:
        raise _Refusal(Inexact.PARTIAL_DENIAL, deny.rule) from None


def _literally(levels: Levels, qos: frozenset[int], rule: str) -> _Grant:
    return _Grant("eq " + "/".join(levels), levels, qos, None, rule)


def surplus_of(allow: Levels) -> Levels | None:
    """Return the filter that EMQX grants by this allow rule and that the rule does not cover, or None.

    If it holds a `+`, that stands for every word: then there are more such filters than can be listed.
    """
    above = allow[:-1] if allow[-1] == "#" else allow
    if not above or above[-1] != "+":
        return None
    surplus = (*above[:-1], "#")
    return None if covers(allow, surplus) else surplus


def missed_by(deny: Levels, allow: Levels) -> Iterator[Levels]:
    """Yield the filters that `allow` covers and `deny` overlaps, but does not match in EMQX. The two overlap.

    Raises `Endless` when there are more than can be listed.
    """
    return _missed(allow, deny, (), missed=False)


def _missed(allow: Levels, deny: Levels, wanted: Levels, *, missed: bool) -> Iterator[Levels]:
    """Go on from `wanted`, the levels so far; `allow` and `deny` are what is left of the two.

    `missed`: a level of `wanted` is a `+` where the deny rule has a name, so that EMQX does not match it any more.
    """
    if missed and wanted and allow in ((), ("#",)) and deny in ((), ("#",)):
        yield wanted
    ends_open = allow == ("#",) or (not wanted and allow == ("+", "#"))
    if ends_open and (missed or deny not in (("#",), ("+",), ("+", "#"))):
        yield (*wanted, "#")
    if not allow or not deny or (deny == ("#",) and not missed):
        return
    head, stop = allow[0], deny[0]
    rest = allow if head == "#" else allow[1:]
    beyond = deny if stop == "#" else deny[1:]
    if head not in _WILDCARDS:
        if stop in (head, *_WILDCARDS):
            yield from _missed(rest, beyond, (*wanted, head), missed=missed)
    elif stop in _WILDCARDS:
        # Any name may stand here, so what can follow follows each of them.
        for _ in _missed(rest, beyond, (*wanted, "+"), missed=missed):
            raise Endless
    else:
        yield from _missed(rest, beyond, (*wanted, stop), missed=missed)
        yield from _missed(rest, beyond, (*wanted, "+"), missed=True)


class _Lines:
    """The list as it grows: rules that differ in their topics alone share a line."""

    def __init__(self, most: int) -> None:
        self.all: list[dict[str, object]] = []
        self._left = most

    def add(self, permission: str, subscribe: Sequence[_Grant], publish: Sequence[_Grant]) -> None:
        """Add rules whose order among each other means nothing."""
        kinds = [{(one.text, one.qos, one.retain): None for one in some} for some in (subscribe, publish)]
        lines: dict[tuple[str, frozenset[int], bool | None], list[str]] = {}
        for key in kinds[0]:
            text, qos, retain = key
            action = "all" if key in kinds[1] else "subscribe"
            lines.setdefault((action, qos, retain), []).append(text)
        for key in kinds[1]:
            if key in kinds[0]:
                continue
            text, qos, retain = key
            lines.setdefault(("publish", qos, retain), []).append(text)
        for (action, qos, retain), topics in lines.items():
            self._left -= len(topics)
            if self._left < 0:
                raise _Refusal(Inexact.TOO_MANY)
            line: dict[str, object] = {"permission": permission, "action": action, "topics": topics}
            if qos != ANY_QOS:
                line["qos"] = sorted(qos)
            if retain is not None:
                line["retain"] = retain
            self.all.append(line)

    def end(self) -> None:
        """Deny everything else."""
        topics = ["#", *(f"{root}/#" for root in BROKER_ROOTS)]
        self.all.append({"permission": "deny", "action": "all", "topics": topics})
