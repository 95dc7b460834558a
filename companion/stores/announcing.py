"""Accounts and rules that tell other processes what they changed.

The word is for speed only: whoever does not get it sees the change by the change stream, or when what it remembers has ended. So a
broadcast that is away fails no write that the store has taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from companion.core.errors import CompanionError
from companion.core.long_tokens import LongToken
from companion.core.model import Account, AccountSecret, Notice, Scope, Session
from companion.core.ports import Accounts, LongTokens, Notices, Revocations, Rules, Sessions, Waiting
from companion.core.ports.identities import SessionField
from companion.core.revocations import Revocation, Standing
from companion.core.rules import Rule

log = structlog.get_logger("companion.stores.announcing")

_RULES = Notice(Scope.RULES)


async def _tell(notices: Notices, notice: Notice) -> None:
    try:
        await notices.announce(notice)
    except CompanionError as problem:
        log.warning("a change was not announced: others see it later", scope=notice.scope.value, problem=str(problem))


class AnnouncingAccounts:
    """The port `Accounts`, over another one."""

    def __init__(self, accounts: Accounts, notices: Notices) -> None:
        self._accounts = accounts
        self._notices = notices

    async def get(self, username: str) -> Account | None:
        """Return the account of this user name, or None."""
        return await self._accounts.get(username)

    async def add(self, accounts: Sequence[Account]) -> None:
        """Add all or none; `Invalid` names a user name that exists. Those who asked for a name in vain hear of it as well."""
        await self._accounts.add(accounts)
        for account in accounts:
            await _tell(self._notices, Notice(Scope.ACCOUNT, account.username))

    async def set_password(self, username: str, password_hash: str, scram: str = "") -> bool:
        """Replace the hash; False when there is no such account."""
        changed = await self._accounts.set_password(username, password_hash, scram)
        if changed:
            await _tell(self._notices, Notice(Scope.ACCOUNT, username))
        return changed

    async def replace_hash(self, username: str, old: str, new: str) -> bool:
        """Replace the hash if it is still `old`; False when it is not, or there is no such account."""
        return await self._told(username, changed=await self._accounts.replace_hash(username, old, new))

    async def adjust(
        self,
        username: str,
        *,
        attributes: Mapping[str, str] | None = None,
        superuser: bool | None = None,
        certificates: Sequence[str] | None = None,
    ) -> bool:
        """Replace those that are given; False when there is no such account."""
        changed = await self._accounts.adjust(
            username, attributes=attributes, superuser=superuser, certificates=certificates
        )
        return await self._told(username, changed=changed)

    async def add_secret(self, username: str, secret: AccountSecret) -> bool:
        """Give the account one more secret; False when there is no such account."""
        return await self._told(username, changed=await self._accounts.add_secret(username, secret))

    async def remove_secret(self, username: str, secret_id: str) -> bool:
        """Take a secret away; False when there is no such account or secret."""
        return await self._told(username, changed=await self._accounts.remove_secret(username, secret_id))

    async def _told(self, username: str, *, changed: bool) -> bool:
        if changed:
            await _tell(self._notices, Notice(Scope.ACCOUNT, username))
        return changed

    async def set_disabled(self, username: str, *, disabled: bool) -> bool:
        """Disable or enable; False when there is no such account."""
        changed = await self._accounts.set_disabled(username, disabled=disabled)
        if changed:
            await _tell(self._notices, Notice(Scope.ACCOUNT, username))
        return changed

    async def set_membership(self, username: str, *, groups: Sequence[str], tenant: str) -> bool:
        """Replace the groups and the tenant; False when there is no such account."""
        changed = await self._accounts.set_membership(username, groups=groups, tenant=tenant)
        if changed:
            await _tell(self._notices, Notice(Scope.ACCOUNT, username))
        return changed

    async def list(self, *, after: str = "", limit: int = 1000) -> Sequence[Account]:
        """Return up to `limit` accounts behind the user name `after`."""
        return await self._accounts.list(after=after, limit=limit)


class AnnouncingRules:
    """The port `Rules`, over another one."""

    def __init__(self, rules: Rules, notices: Notices) -> None:
        self._rules = rules
        self._notices = notices

    async def add(self, rule: Rule) -> Rule:
        """Store a rule that can be enforced and return it with its id."""
        added = await self._rules.add(rule)
        await _tell(self._notices, _RULES)
        return added

    async def remove(self, rule_id: str) -> bool:
        """Remove; False when there is no such rule."""
        removed = await self._rules.remove(rule_id)
        if removed:
            await _tell(self._notices, _RULES)
        return removed

    async def of(self, subjects: Sequence[str]) -> Sequence[Rule]:
        """Return the rules of these subjects, oldest first."""
        return await self._rules.of(subjects)

    async def list(self) -> Sequence[Rule]:
        """Return every rule, oldest first."""
        return await self._rules.list()


class AnnouncingSessions:
    """The port `Sessions`, over another one. New sessions are traffic and not announced; those that end early are."""

    def __init__(self, sessions: Sessions, notices: Notices) -> None:
        self._sessions = sessions
        self._notices = notices

    async def put(self, session: Session) -> None:
        """Store it, in place of an earlier one of the same user name and client id."""
        await self._sessions.put(session)

    async def get(self, username: str, client_id: str) -> Session | None:
        """Return the session, also an expired one; None when there is none."""
        return await self._sessions.get(username, client_id)

    async def remove(self, username: str, client_id: str) -> None:
        """Forget it; no error when there is none."""
        await self._sessions.remove(username, client_id)
        await _tell(self._notices, Notice(Scope.SESSION, username))

    async def client_ids(self, by: SessionField, value: str, *, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Return up to `limit` client ids of the sessions with this value, those behind `after`."""
        return await self._sessions.client_ids(by, value, after=after, limit=limit)

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` sessions that expired before `before` (Unix seconds); return how many. Nobody serves them."""
        return await self._sessions.prune(before, limit, dry=dry)


class AnnouncingRevocations:
    """The port `Revocations`, over another one."""

    def __init__(self, revocations: Revocations, notices: Notices) -> None:
        self._revocations = revocations
        self._notices = notices

    async def add(self, revocation: Revocation) -> bool:
        """Store a new one durably; False when there is one of this id."""
        added = await self._revocations.add(revocation)
        if added:
            await _tell(self._notices, Notice(Scope.REVOCATION, revocation.key))
        return added

    async def get(self, revocation_id: str) -> Revocation | None:
        """Return it; None when there is none."""
        return await self._revocations.get(revocation_id)

    async def list(self, *, waiting: bool | None = None, limit: int = 100) -> Sequence[Revocation]:
        """Return up to `limit`, newest first."""
        return await self._revocations.list(waiting=waiting, limit=limit)

    async def standing(self, now: int, *, after: str = "", limit: int = 1000) -> Sequence[Standing]:
        """Return up to `limit` because of which the hooks refuse, those behind `after`."""
        return await self._revocations.standing(now, after=after, limit=limit)

    async def of(self, keys: Sequence[str], now: int) -> Sequence[Standing]:
        """Return those because of which somebody with one of these keys is refused."""
        return await self._revocations.of(keys, now)

    async def due(self, now: int, limit: int) -> Sequence[Revocation]:
        """Return up to `limit` that are due."""
        return await self._revocations.due(now, limit)

    async def claim(self, revocation_id: str, fence: int) -> Revocation | None:
        """Return it as it stands, and refuse lower fences from now on."""
        return await self._revocations.claim(revocation_id, fence)

    async def note(self, revocation: Revocation) -> Revocation:
        """Store how far it is under its fence, and return it as it then stands."""
        return await self._revocations.note(revocation)

    async def lift(self, revocation_id: str, now: int) -> Revocation | None:
        """End it and return it, also one that was lifted before."""
        lifted = await self._revocations.lift(revocation_id, now)
        if lifted is not None:
            await _tell(self._notices, Notice(Scope.REVOCATION, lifted.key))
        return lifted

    async def waiting(self) -> Waiting:
        """Return what is left to do."""
        return await self._revocations.waiting()

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` older than `before` that neither stand nor wait; return how many. Nobody is refused by them."""
        return await self._revocations.prune(before, limit, dry=dry)


class AnnouncingTokens:
    """The port `LongTokens`, over another one. A new token is nothing that anybody remembers; one that goes is."""

    def __init__(self, tokens: LongTokens, notices: Notices) -> None:
        self._tokens = tokens
        self._notices = notices

    async def add(self, token: LongToken) -> None:
        """Store it; `Invalid` for an id that exists already."""
        await self._tokens.add(token)

    async def get(self, token_id: str) -> LongToken | None:
        """Return the token, or None."""
        return await self._tokens.get(token_id)

    async def remove(self, token_id: str) -> bool:
        """Remove it; False when there is no such token."""
        token = await self._tokens.get(token_id)
        removed = await self._tokens.remove(token_id)
        if removed and token is not None:
            await _tell(self._notices, Notice(Scope.ACCOUNT, token.username))
        return removed

    async def list(self, username: str = "") -> Sequence[LongToken]:
        """Return all of them, or those of this user name, in the order of their ids."""
        return await self._tokens.list(username)
