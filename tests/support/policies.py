"""Rules and requests in short, sets of them over a small universe of topics, and the right decision on each by brute force."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product

from hypothesis import strategies as st

from companion.core.model import Access, Action, Allow, Decision, Deny, Reason
from companion.core.rules import ANY_QOS, EVERYONE, Effect, Rule, RuleAction
from companion.core.topics import check_filter
from companion.core.windows import Window
from tests.support import clockface, oracle

SMALL = oracle.Universe(("a", "b", "", "$x"), depth=3)
"""All 185 filters of up to three levels over two names, the empty level and a `$` level."""

QOS_SETS = tuple(frozenset(some) for size in (1, 2, 3) for some in combinations(range(3), size))

RULES = tuple(
    Rule(EVERYONE, effect, action, "/".join(levels), qos=qos, retain=retain)
    for levels, retain, action, qos, effect in product(
        SMALL.filters, (None, None, True, False), RuleAction, (*[ANY_QOS] * 4, *QOS_SETS), Effect
    )
)
WIDE = tuple(
    Rule(EVERYONE, Effect.ALLOW, action, "/".join(levels))
    for levels, action in product((levels for levels in SMALL.filters if levels[-1] == "#"), RuleAction)
)


def rule_sets() -> st.SearchStrategy[list[Rule]]:
    """Return up to six rules over the small universe, each with its id; wide allow rules are frequent, or little were allowed."""
    some = st.lists(st.one_of(st.sampled_from(RULES), st.sampled_from(WIDE)), min_size=1, max_size=6)
    return some.map(lambda rules: [replace(rule, id=f"r{index}") for index, rule in enumerate(rules)])


WINDOWS = tuple(
    Window(line, 3600, zone)
    for line in ("0 * * * *", "0 8 * * *", "30 8-9 * * mon")
    for zone in ("UTC", "Asia/Kolkata")
)
"""The first is always open."""

PLACES = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "2001:db8::/32")
PEERS = st.sampled_from(
    ("", "somewhere", "10.1.2.3", "10.1.2.4", "::ffff:10.1.2.3", "10.9.9.9", "192.0.2.1", "2001:db8::7")
)
MOMENTS = st.none() | st.sampled_from(
    [1_795_996_800 + hour * 1800 for hour in range(7 * 48)]  # Monday, 30 November 2026 and the week that follows
)


def conditional_rule_sets() -> st.SearchStrategy[list[Rule]]:
    """Return the same, and of the rules about half with windows, locations or both."""
    conditions = st.tuples(
        st.lists(st.sampled_from(WINDOWS), max_size=2).map(tuple),
        st.lists(st.sampled_from(PLACES), max_size=2).map(tuple),
    )
    limited = st.tuples(rule_sets(), st.lists(st.none() | conditions, min_size=6, max_size=6))
    return limited.map(
        lambda both: [
            rule if more is None else replace(rule, windows=more[0], locations=more[1])
            for rule, more in zip(both[0], both[1], strict=False)
        ]
    )


NAMES = tuple("/".join(topic) for topic in SMALL.topics if topic != oracle.EMPTY_NAME)
QOS = st.sampled_from((None, 0, 1, 2))
PUBLISHES = st.builds(
    Access, st.just(Action.PUBLISH), st.sampled_from(NAMES), qos=QOS, retain=st.sampled_from((None, True, False))
)
SUBSCRIPTIONS = st.builds(Access, st.just(Action.SUBSCRIBE), st.sampled_from(SMALL.filters).map("/".join), qos=QOS)


Expected = tuple[type[Decision], Reason, set[str]]
"""The kind and the reason of the right decision, and the ids of the rules that may be named for it."""


def completions(access: Access) -> Iterator[tuple[int, bool]]:
    """Yield every (QoS, retain) that the request may have, given what the broker told of it."""
    return product(
        range(3) if access.qos is None else (access.qos,), (True, False) if access.retain is None else (access.retain,)
    )


def missed(rule: Rule, access: Access, now: int | None) -> set[str]:
    """Return which of the rule's limits do not admit the request; what is not known is never in the client's favour."""
    lenient = rule.effect is Effect.DENY
    either = any if lenient else all
    missed = set()
    if not either(qos in rule.qos for qos, _ in completions(access)):
        missed.add("qos")
    if access.action is Action.PUBLISH and not either(
        rule.retain in (None, retain) for _, retain in completions(access)
    ):
        missed.add("retain")
    if rule.windows and not (
        lenient if now is None else any(clockface.is_open(window, now) for window in rule.windows)
    ):
        missed.add("time")
    if rule.locations and not _is_there(access.peer_host, rule.locations, unknown=lenient):
        missed.add("location")
    return missed


def _is_there(peer: str, places: Sequence[str], *, unknown: bool) -> bool:
    """Tell whether the address (a `::ffff:` before it stripped) begins with the bits of one of the places."""
    plain = peer.removeprefix("::ffff:")
    if not plain or plain == "somewhere":
        return unknown
    bits = {"10.0.0.0/8": "10.", "10.1.0.0/16": "10.1.", "10.1.2.3": "10.1.2.3", "2001:db8::/32": "2001:db8:"}
    return any(plain == place or (place.count("/") and plain.startswith(bits[place])) for place in places)


def speaks_of(rule: Rule, access: Access, now: int | None = None) -> bool:
    """Tell whether the rule's limits admit the request: a deny if any completion is met, an allow only if all are."""
    if missed(rule, access, now) & {"time", "location"}:
        return False
    met = [
        qos in rule.qos and (access.action is Action.SUBSCRIBE or rule.retain is None or rule.retain is retain)
        for qos, retain in completions(access)
    ]
    named = rule.action in {"all", str(access.action)}
    return named and (any(met) if rule.effect is Effect.DENY else all(met))


def expected(rules: Sequence[Rule], access: Access, now: int | None = None) -> Expected:
    """Return the right decision on a publish or a subscription of the small universe."""
    return (expected_publish if access.action is Action.PUBLISH else expected_subscribe)(rules, access, now)


def expected_publish(rules: Sequence[Rule], access: Access, now: int | None = None) -> Expected:
    """Return the right decision on a publish, from the rules one by one."""
    topic = tuple(access.topic.split("/"))
    hits = [one for one in rules if speaks_of(one, access, now) and oracle.matches(check_filter(one.filter), topic)]
    return _answer(
        [one.id for one in hits if one.effect is Effect.DENY], [one.id for one in hits if one.effect is Effect.ALLOW]
    )


def expected_subscribe(rules: Sequence[Rule], access: Access, now: int | None = None) -> Expected:
    """Return the right decision on a subscription of the small universe, from the topics that it would receive."""
    received = set(SMALL.matched(check_filter(access.topic)))
    asked = [(one, set(SMALL.matched(check_filter(one.filter)))) for one in rules if speaks_of(one, access, now)]
    return _answer(
        [one.id for one, topics in asked if one.effect is Effect.DENY and received & topics],
        [one.id for one, topics in asked if one.effect is Effect.ALLOW and received <= topics],
    )


def _answer(denying: Sequence[str], allowing: Sequence[str]) -> Expected:
    if denying:
        return Deny, Reason.DENIED_BY_RULE, set(denying)
    if allowing:
        return Allow, Reason.RULE, set(allowing)
    return Deny, Reason.NO_RULE, {""}


NO_RULE = Deny(Reason.NO_RULE)


def allow(filter_: str, action: RuleAction = RuleAction.ALL, *, id_: str = "yes") -> Rule:
    return Rule(EVERYONE, Effect.ALLOW, action, filter_, id=id_)


def deny(filter_: str, action: RuleAction = RuleAction.ALL, *, id_: str = "no") -> Rule:
    return Rule(EVERYONE, Effect.DENY, action, filter_, id=id_)


def publish(topic: str, qos: int | None = None, *, retain: bool | None = None) -> Access:
    return Access(Action.PUBLISH, topic, qos=qos, retain=retain)


def subscribe(topic_filter: str, qos: int | None = None) -> Access:
    return Access(Action.SUBSCRIBE, topic_filter, qos=qos)


def check(decision: Decision, right: Expected) -> None:
    kind, reason, ids = right
    assert isinstance(decision, kind)
    assert decision.reason is reason
    assert decision.rule in ids
