"""The access lists of mosquitto-go-auth's MongoDB backend as rules. Pure.

An entry is `{topic, acc}`: 1 may receive, 2 publish, 3 all, 4 subscribe. Mosquitto asks for a subscription (4) and again for every
message that it would deliver (1); EMQX asks once. So a subscription is allowed by a 3, or by a 1 and a 4 for the same topic.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.rules import Effect, Rule, RuleAction, check_limits

_READ: Final = 1
_WRITE: Final = 2
_ALL: Final = 3
_SUBSCRIBE: Final = 4


def rules_of_acls(acls: Iterable[Any], subject: str, origin: str, *, common: bool) -> list[Rule]:
    """Return the rules of a list; in the common ones `%u` and `%c` stand for the user name and the client id.

    What cannot be enforced allows nothing.
    """
    access: dict[str, set[int]] = {}
    for acl in acls:
        topic, acc = (acl.get("topic"), acl.get("acc")) if isinstance(acl, dict) else (None, None)
        if isinstance(topic, str) and isinstance(acc, int):
            access.setdefault(topic, set()).add(acc)
    rules = []
    for topic, accs in access.items():
        action = _action(accs)
        if action is None:
            continue
        topic_filter = topic.replace("%u", "${username}").replace("%c", "${clientid}") if common else topic
        rule = Rule(subject, Effect.ALLOW, action, topic_filter, id=f"{origin}:{topic}")
        try:
            check_limits(rule)
        except Invalid:
            continue
        rules.append(rule)
    return rules


def _action(accs: set[int]) -> RuleAction | None:
    if _ALL in accs or {_READ, _WRITE, _SUBSCRIBE} <= accs:
        return RuleAction.ALL
    if {_READ, _SUBSCRIBE} <= accs:
        return RuleAction.SUBSCRIBE
    return RuleAction.PUBLISH if _WRITE in accs else None
