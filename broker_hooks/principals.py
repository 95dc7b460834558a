"""Somebody who is connected, and what a policy for them is made from. Pure: what the store knows comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from broker_hooks.session_rules import granted_within_scope, rules_in_session
from companion.core.model import Account, Deny, Reason, Session
from companion.core.policy import SUPERUSER
from companion.core.rule_sets import RuleSet
from companion.core.rules import (
    EVERYONE,
    SESSION_KIND,
    Rule,
    subject_of_account,
    subject_of_grants,
    subject_of_group,
    subject_of_kind,
    subject_of_tenant,
)
from companion.core.token_names import is_name_of_token

NOT_CONNECTED: Final = Deny(Reason.NOT_CONNECTED)
_TOKEN_EXPIRED: Final = Deny(Reason.TOKEN_EXPIRED)
_ACCOUNT_EXPIRED: Final = Deny(Reason.ACCOUNT_EXPIRED)


class Refused(Exception):
    """Who asks is refused whatever the topic."""

    def __init__(self, deny: Deny) -> None:
        self.deny = deny
        super().__init__(deny.reason)


def refusal(account: Account, now: float) -> Deny | None:
    """Tell why this account may not be used now (Unix seconds); None when it may."""
    if account.disabled:
        return Deny(Reason.ACCOUNT_DISABLED)
    if account.expires_at is not None and account.expires_at <= now:
        return _ACCOUNT_EXPIRED
    return None


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody connected. `values` are those of the placeholders, `subjects` those whose rules hold.

    From `expires_at` (Unix seconds) on the answer to everything is `ended`.
    """

    account: Account | None
    session: Session | None
    values: Mapping[str, str]
    subjects: Sequence[str]
    expires_at: float
    ended: Deny

    def held(self, stored: Sequence[Rule]) -> Sequence[Rule]:
        """Return those of the store's rules of the subjects that hold, and the rules that the account brings along."""
        rules = stored if self.session is None else granted_within_scope(stored, self.session)
        if self.account is None:
            return rules
        return (*rules, *self.account.rules, *(SUPERUSER if self.account.superuser else ()))

    def of(self, rule_set: RuleSet, stored: Sequence[Rule]) -> Sequence[Rule]:
        """Return what holds by this set, given the store's rules of the subjects, and by what came with the session."""
        rules = rule_set.of(self.subjects, self.held(stored))
        return rules if self.session is None else rules_in_session(rules, self.session)


def principal_of(
    account: Account | None, session: Session | None, username: str, client_id: str, now: float
) -> Principal:
    """Return who is connected with this user name and client id. Raises `Refused` for nobody, and for who may not be used."""
    refused = refusal(account, now) if account else None
    if refused:
        raise Refused(refused)
    if session is not None and is_name_of_token(username):
        username = session.principal
    values = {"username": username, "clientid": client_id}
    ends = [(float(account.expires_at), _ACCOUNT_EXPIRED)] if account and account.expires_at is not None else []
    if session is not None:
        values |= {"principal": session.principal, "session": session.session}
        kind = account.kind.value if session.token and account is not None else SESSION_KIND
        ends.append((float(session.expires_at), _TOKEN_EXPIRED))
    elif account is not None:
        values["principal"] = account.principal
        kind = account.kind.value
    else:
        raise Refused(NOT_CONNECTED)
    granted_to = () if account is None else account.subjects
    if session is not None and not session.token:
        granted_to = (session.subject,) if session.subject else ()
    belonging = [one for one in (session, account) if one is not None]
    tenants = list(dict.fromkeys(one.tenant for one in belonging if one.tenant))
    if tenants:
        values["tenant"] = tenants[0]
    groups = dict.fromkeys(group for one in belonging for group in one.groups)
    subjects = (
        EVERYONE,
        subject_of_kind(kind),
        *map(subject_of_tenant, tenants),
        *map(subject_of_group, groups),
        subject_of_account(username),
        *map(subject_of_grants, granted_to),
    )
    expires_at, ended = min(ends, key=itemgetter(0), default=(float("inf"), _ACCOUNT_EXPIRED))
    return Principal(account, session, values, subjects, expires_at, ended)
