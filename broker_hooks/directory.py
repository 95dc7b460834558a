"""Who somebody is: cached look-ups of accounts, and the policy of whoever is connected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

import structlog

from broker_hooks.cache import Cache
from companion.core.errors import CompanionError
from companion.core.model import Access, Account, Decision, Deny, Kind, Reason, Session
from companion.core.policy import OWN_TOPICS, Policy
from companion.core.ports import Store
from companion.core.rules import EVERYONE, SESSION_KIND, subject_of_account, subject_of_kind
from companion.metrics import Metrics

log = structlog.get_logger("broker_hooks.directory")

_NOT_CONNECTED: Final = Deny(Reason.NOT_CONNECTED)
_TOKEN_EXPIRED: Final = Deny(Reason.TOKEN_EXPIRED)
_ACCOUNT_EXPIRED: Final = Deny(Reason.ACCOUNT_EXPIRED)
_NOBODY: Final = Account("", Kind.USER, "", "")
"""Stands in the cache for a principal that has no account."""


def refusal(account: Account, now: float) -> Deny | None:
    """Tell why this account may not be used now (Unix seconds); None when it may."""
    if account.disabled:
        return Deny(Reason.ACCOUNT_DISABLED)
    if account.expires_at is not None and account.expires_at <= now:
        return _ACCOUNT_EXPIRED
    return None


@dataclass(frozen=True, slots=True)
class _Connected:
    """Somebody connected: the policy, and until when it holds (Unix seconds)."""

    policy: Policy
    expires_at: float
    ended: Deny


class Directory:
    """Accounts, sessions and policies, with caches that follow the store's generation."""

    def __init__(
        self, store: Store, metrics: Metrics, *, entries: int, seconds: float, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._now = now
        self._accounts: Cache[str, Account] = Cache("account", entries, seconds, metrics)
        self._connected: Cache[tuple[str, str], _Connected] = Cache("policy", entries, seconds, metrics)
        self._sessions: Cache[tuple[str, str], Session] = Cache("session", entries, seconds, metrics)
        self._generation: int | None = None

    async def account(self, username: str) -> Account | None:
        """Return the account, from the cache or the store. Accounts that do not exist are asked for each time."""
        account = self._accounts.get(username)
        if account is None or account is _NOBODY:
            epoch = self._accounts.epoch
            account = await self._store.accounts.get(username)
            if account is not None:
                self._accounts.put(username, account, epoch)
        return account

    async def principal_account(self, username: str) -> Account | None:
        """Return the account that bears the name of a platform principal, which then decides too. Most have none.

        That is cached as well: the name stands in a verified token, so nobody fills the cache with invented ones.
        """
        account = self._accounts.get(username)
        if account is None:
            epoch = self._accounts.epoch
            account = await self._store.accounts.get(username) or _NOBODY
            self._accounts.put(username, account, epoch)
        return None if account is _NOBODY else account

    async def start_session(self, session: Session) -> None:
        """Remember a token's session durably, so that any process can authorize it; a repetition costs a look-up."""
        key = (session.username, session.client_id)
        if self._sessions.get(key) != session:
            await self._store.sessions.put(session)
            self._connected.forget(key)
            self._sessions.put(key, session, self._sessions.epoch)

    async def end_session(self, username: str, client_id: str) -> None:
        """Forget an earlier token's session: this client id now belongs to an account."""
        if await self._store.sessions.get(username, client_id) is not None:
            await self._store.sessions.remove(username, client_id)
            self._sessions.forget((username, client_id))
            self._connected.forget((username, client_id))

    async def decide(self, access: Access) -> Decision:
        """Judge a publish or subscribe by the policy of whoever is connected with this user name and client id."""
        key = (access.username, access.client_id)
        connected = self._connected.get(key)
        # One that has expired is looked up again: another process may have taken a newer token since.
        if connected is None or connected.expires_at <= self._now():
            epoch = self._connected.epoch
            found = await self._load(*key)
            if isinstance(found, Deny):
                return found
            connected = found
            self._connected.put(key, connected, epoch)
        if connected.expires_at <= self._now():
            return connected.ended
        return connected.policy.decide(access)

    async def _load(self, username: str, client_id: str) -> _Connected | Deny:
        if not username:
            return _NOT_CONNECTED
        account = await self.account(username)
        refused = refusal(account, self._now()) if account else None
        if refused:
            return refused
        session = await self._store.sessions.get(username, client_id)
        values = {"username": username, "clientid": client_id}
        ends = [(float(account.expires_at), _ACCOUNT_EXPIRED)] if account and account.expires_at is not None else []
        if session is not None:
            values |= {"principal": session.principal, "session": session.session}
            kind = SESSION_KIND
            ends.append((float(session.expires_at), _TOKEN_EXPIRED))
        elif account is not None:
            values["principal"] = account.principal
            kind = account.kind.value
        else:
            return _NOT_CONNECTED
        rules = await self._store.rules.of((EVERYONE, subject_of_kind(kind), subject_of_account(username)))
        expires_at, ended = min(ends, key=itemgetter(0), default=(float("inf"), _ACCOUNT_EXPIRED))
        return _Connected(Policy((*rules, *OWN_TOPICS), values), expires_at, ended)

    async def follow(self, every: float) -> None:
        """Clear the caches whenever the store's generation moves; never returns. `every` is in seconds.

        While the store is away the caches run into their own end, `cache_seconds`.
        """
        away = False
        while True:
            try:
                await self.refresh()
                away = False
            except CompanionError as problem:
                if not away:
                    log.warning("store away", problem=str(problem))
                away = True
            await asyncio.sleep(every)

    async def refresh(self) -> None:
        """Look at the store's generation once, and clear the caches if it moved."""
        generation = await self._store.generations.current()
        if generation != self._generation:
            self._generation = generation
            self._accounts.clear()
            self._connected.clear()
