"""Rules in the schemas of others: EMQX's MongoDB authorization, the platform's grants. Pure.

What our rules cannot say exactly is taken for the worse: it allows nothing; if it denies, its subject is denied everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any, Final

import structlog

from companion.core.errors import Invalid
from companion.core.locations import locations_of
from companion.core.rules import ANY_QOS, Effect, Rule, RuleAction, check_limits
from companion.core.windows import Window, windows_of

log = structlog.get_logger("companion.stores.mongo")

Document = Mapping[str, Any]

_EVERYTHING: Final = ("#", "$SYS/#")
_OLD_LISTS: Final = {"publish": RuleAction.PUBLISH, "subscribe": RuleAction.SUBSCRIBE, "pubsub": RuleAction.ALL}
_LITERALLY: Final = "eq "
_RETAIN: Final[Mapping[Any, bool | None]] = {
    True: True,
    False: False,
    "true": True,
    "false": False,
    "all": None,
    None: None,
}
_GRANT_ACTIONS: Final = {
    "publish": RuleAction.PUBLISH,
    "subscribe": RuleAction.SUBSCRIBE,
    "all": RuleAction.ALL,
    "any": RuleAction.ALL,
    "*": RuleAction.ALL,
}
_SERVICE: Final = re.compile(r"[\w-]+:[\w*-]+")
_LIMITS: Final = ("clientid", "ipaddress", "ipaddr")


def rules_of_emqx(document: Document, subject: str, origin: str) -> list[Rule]:
    """Return the rules of a document of `mqtt_acl`.

    From EMQX 5 on it has `permission`, `action`, `topics` or `topic`, `qos`, `retain`; before, lists of topics that are allowed
    (`publish`, `subscribe`, `pubsub`). EMQX does not look at `clientid` and `ipaddress` in it; we allow nothing that is limited so.
    """
    rule_id = f"{origin}:{document.get('_id')}"
    permission = document.get("permission", Effect.ALLOW.value)
    denies = permission != Effect.ALLOW.value
    if not denies and any(document.get(name) for name in _LIMITS):
        return []
    try:
        if "permission" not in document:
            listed = [(action, topic) for name, action in _OLD_LISTS.items() for topic in _listed(document.get(name))]
            return _sound([Rule(subject, Effect.ALLOW, action, _ours(topic), id=rule_id) for action, topic in listed])
        effect, action = Effect(permission), RuleAction(document["action"])
        qos, retain = _qos(document.get("qos")), _RETAIN[document.get("retain")]
        topics = [*_listed(document.get("topics")), *_listed(document.get("topic"))]
        rules = [Rule(subject, effect, action, _filter(topic, effect), qos, retain, id=rule_id) for topic in topics]
        return _sound([rule for rule in rules if rule.filter])
    except (Invalid, KeyError, TypeError, ValueError) as problem:
        log.warning("a rule cannot be enforced", rule=rule_id, problem=type(problem).__name__)
        if not denies:
            return []
        return [Rule(subject, Effect.DENY, RuleAction.ALL, topic, id=rule_id) for topic in _EVERYTHING]


def rules_of_grant(document: Document, subject: str, origin: str, timezone: str = "UTC") -> list[Rule]:
    """Return the rules of a document of `auth.grants`: none for one that is about documents rather than topics.

    `time` is a list of `{cron_exp, duration}` (a line with or without seconds, in this time zone; seconds), `location` one of
    addresses and networks. A grant whose times or places cannot be understood, or that holds for some documents only, allows
    nothing here.
    """
    action, topic = _GRANT_ACTIONS.get(str(document.get("action"))), document.get("object")
    if action is None or not isinstance(topic, str) or _SERVICE.fullmatch(topic):
        return []
    if document.get("deleted_at") is not None or document.get("filter"):
        return []
    rule_id = f"{origin}:{document.get('_id')}"
    try:
        windows, locations = _times(document.get("time"), timezone), _places(document.get("location"))
    except Invalid as problem:
        log.warning("a rule cannot be enforced", rule=rule_id, field=problem.field, problem=problem.allowed)
        return []
    rule = Rule(subject, Effect.ALLOW, action, _ours(topic), id=rule_id, windows=windows, locations=locations)
    return _sound([rule])


def _times(value: object, timezone: str) -> tuple[Window, ...]:
    if not value:
        return ()
    listed: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(one, Mapping) for one in listed):
        raise Invalid("time", type(value).__name__, "a list of {cron_exp, duration}")
    return windows_of(
        [{"cron": one.get("cron_exp"), "duration": one.get("duration"), "timezone": timezone} for one in listed], "time"
    )


def _places(value: object) -> tuple[str, ...]:
    """Return the locations; where bits of an address stand behind those of the network, the network is meant."""
    if not value:
        return ()
    listed = value if isinstance(value, list) else [value]
    return locations_of([_network(one) for one in listed], "location")


def _network(value: object) -> object:
    try:
        return str(ip_network(value, strict=False)) if isinstance(value, str) else value
    except ValueError:
        return value


def _sound(rules: Sequence[Rule]) -> list[Rule]:
    """Return the rules, without those that allow what cannot be enforced; raise `Invalid` for one that denies so."""
    sound = []
    for rule in rules:
        try:
            check_limits(rule)
        except Invalid as problem:
            if rule.effect is Effect.DENY:
                raise
            log.warning("a rule cannot be enforced", rule=rule.id, problem=problem.allowed)
            continue
        sound.append(rule)
    return sound


def _listed(value: object) -> Sequence[str]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    raise TypeError("topics")


def _filter(topic: str, effect: Effect) -> str:
    """Return the filter; empty for an allowance of one wildcard filter literally, which would allow all that it matches."""
    literal = topic.removeprefix(_LITERALLY)
    if literal != topic and effect is Effect.ALLOW and re.search("[+#]", literal):
        return ""
    return _ours(literal)


def _ours(topic: str) -> str:
    return topic.replace("%u", "${username}").replace("%c", "${clientid}")


def _qos(value: Any) -> frozenset[int]:  # noqa: ANN401 - whatever stands there
    if value is None or value == "all":
        return ANY_QOS
    listed = value.split(",") if isinstance(value, str) else value
    levels = frozenset(int(one) for one in (listed if isinstance(listed, list) else [listed]))
    if not levels or not levels <= ANY_QOS:
        raise ValueError("qos")
    return levels
