"""What is counted of the decisions of the hooks, by their audit records: logins and refusals. Pure.

The keys are `HOOKS_COUNT__{ALLOW|DENY}_{AUTH|AUTHZ}`, and the same with the reason behind it. All are counted for the owner
`hooks`, and, where somebody was known by then, for the user name; names that anybody may make up get no statistics of their own.
"""

from __future__ import annotations

from typing import Final

from companion.core.model import Audit, Reason
from companion.core.stats import Fact, Subject

OWNER: Final = "hooks"

KNOWN: Final = frozenset(
    {
        Reason.PASSWORD,
        Reason.TOKEN,
        Reason.RULE,
        Reason.OWN_TOPIC,
        Reason.WRONG_PASSWORD,
        Reason.UNUSABLE_HASH,
        Reason.ACCOUNT_DISABLED,
        Reason.ACCOUNT_EXPIRED,
        Reason.REVOKED,
        Reason.DENIED_BY_RULE,
        Reason.NO_RULE,
    }
)
"""Reasons that are given only to user names that there are."""

_HOOKS: Final = frozenset({"auth", "authz"})


def fact_of(audit: Audit) -> Fact:
    """Return what is counted of this decision: nothing of what is recorded beside the decisions of the hooks."""
    if audit.kind not in _HOOKS:
        return Fact(audit.at, (), ())
    key = f"HOOKS_COUNT__{audit.verdict}_{audit.kind}".upper()
    subjects = [Subject(OWNER)]
    if audit.username and audit.reason in KNOWN:
        subjects.append(Subject(audit.username))
    return Fact(audit.at, tuple(dict.fromkeys(subjects)), ((key, 1), (f"{key}_{audit.reason}".upper(), 1)))
