"""Rules as people write and stores keep them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from companion.core.errors import Invalid
from companion.core.locations import check_locations
from companion.core.model import Kind, Reason
from companion.core.templates import Template
from companion.core.topics import check_filter, split_share
from companion.core.windows import Window, check_windows

PLACEHOLDERS: Final = frozenset({"username", "clientid", "principal", "session", "tenant"})
"""`session` has a value in platform sessions only, `tenant` for whoever belongs to one."""

EVERYONE: Final = "everyone"
SESSION_KIND: Final = "session"
"""The kind of a platform session (an access token), beside the kinds that accounts have."""

RULE_KINDS: Final = (*(kind.value for kind in Kind), SESSION_KIND)
ANY_QOS: Final = frozenset({0, 1, 2})

_SUBJECTS: Final = "everyone, kind:{" + "|".join(RULE_KINDS) + "}, group:{name}, tenant:{name} or account:{username}"
_NAMED: Final = frozenset({"account", "group", "tenant"})


class Effect(StrEnum):
    """What a rule does. Deny beats allow, whatever the order."""

    ALLOW = "allow"
    DENY = "deny"


class RuleAction(StrEnum):
    """What a rule speaks about."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a policy.

    `subject` is who it is for (`everyone`, `kind:device`, `group:night shift`, `tenant:acme`, `account:alice`); `filter` is a topic
    filter with placeholders (`PLACEHOLDERS`); `qos` is the set of QoS levels it speaks about; `retain` limits it to retained
    (True) or to not retained (False) publishes and means nothing for subscriptions. `windows` are the times at which it holds, any
    of them; `locations` the addresses and networks (CIDR) that the client connects from, any of them; without any it holds always,
    and everywhere. `id` is given by the store.
    """

    subject: str
    effect: Effect
    action: RuleAction
    filter: str
    qos: frozenset[int] = ANY_QOS
    retain: bool | None = None
    id: str = ""
    reason: Reason = Reason.RULE
    windows: tuple[Window, ...] = ()
    locations: tuple[str, ...] = ()

    @property
    def conditional(self) -> bool:
        """Whether it holds at some times or in some places only, so that a verdict may be another one at the next request."""
        return bool(self.windows or self.locations)


def subject_of_kind(kind: str) -> str:
    """Return the subject of every account (or session) of `kind`."""
    return f"kind:{kind}"


def subject_of_account(username: str) -> str:
    """Return the subject of one account."""
    return f"account:{username}"


def subject_of_group(name: str) -> str:
    """Return the subject of everybody in a group."""
    return f"group:{name}"


def subject_of_tenant(name: str) -> str:
    """Return the subject of everybody who belongs to a tenant."""
    return f"tenant:{name}"


def subject_of_grants(name: str) -> str:
    """Return the subject of the platform's grants to `name` (`local@domain`); such rules are read, never added here."""
    return f"grants:{name}"


def check_rule(rule: Rule) -> Template:
    """Return the parsed filter of a rule that can be stored; raise `Invalid` naming the field otherwise."""
    scope, colon, name = rule.subject.partition(":")
    known = rule.subject == EVERYONE or (
        colon and name and (scope in _NAMED or (scope == "kind" and name in RULE_KINDS))
    )
    if not known:
        raise Invalid("subject", rule.subject, f"a subject is {_SUBJECTS}")
    return check_limits(rule)


def check_limits(rule: Rule) -> Template:
    """Return the parsed filter of a rule that can be enforced, for whomever; raise `Invalid` naming the field otherwise."""
    if not rule.qos or not rule.qos <= ANY_QOS:
        raise Invalid("qos", sorted(rule.qos), "one or more of 0, 1, 2")
    if split_share(rule.filter)[0] is not None:
        raise Invalid("filter", rule.filter, "the filter itself: a rule also holds for its shared subscriptions")
    if rule.filter.startswith("eq "):
        raise Invalid(
            "filter", rule.filter, "no `eq ` as in EMQX's own rules: a rule's filter always means what it matches"
        )
    check_windows(rule.windows)
    check_locations(rule.locations)
    template = Template.parse(rule.filter, opener="${", allowed=PLACEHOLDERS, field="filter")
    start = template.literals[0]
    if template.names and start[:1] == "$" and "/" not in start:
        # Without a value a deny rule widens to `+`, which would not reach the `$` topics that it was meant for.
        raise Invalid("filter", rule.filter, "no placeholder in a first level that begins with $")
    check_filter(re.sub(r"\$\{\w+\}", "x", rule.filter), "filter")
    return template
