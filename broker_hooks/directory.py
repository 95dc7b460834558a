"""Who somebody is: cached look-ups of accounts, and the policy of whoever is connected."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from broker_hooks.cache import Cache
from broker_hooks.policy_lists import CompileAcl, Listed, PolicyList
from broker_hooks.principals import NOT_CONNECTED, Principal, Refused, principal_of, refusal
from broker_hooks.revoked import REVOKED, Revoked
from companion.core.errors import Invalid, Transient
from companion.core.model import Access, Account, Decision, Deny, Kind, Notice, Scope, Session
from companion.core.policy import Policy
from companion.core.ports import Store
from companion.core.revocations import keys_of_client
from companion.core.rule_sets import RuleBook
from companion.core.rules import Rule
from companion.core.token_names import is_name_of_token
from companion.metrics import Metrics

__all__ = ["Directory", "Remembered", "refusal"]

log = structlog.get_logger("broker_hooks.directory")

Compared = Callable[[Access, Decision, Decision], None]
"""Told of a request, of what was decided, and of what the shadow would have decided."""

_NOBODY: Final = Account("", Kind.USER, "", "")
"""Stands in the cache for a principal that has no account."""

_CHANGED: Final = 10_000
"""Of how many changed user names we know; with more, everything is forgotten."""

_KEPT_RULES: Final = 10_000

_ACCOUNT_BYTES: Final = 250
_SESSION_BYTES: Final = 500
_POLICY_BYTES: Final = 400
_COMPILED_BYTES: Final = 2000
_LOADS: Final = 3
"""How often a policy is loaded for a list that something overtakes."""
_OVERTAKING: Final = (Scope.ACCOUNT, Scope.RULES, Scope.EVERYTHING)
_RULE_BYTES: Final = 1000


class _Connected(msgspec.Struct, frozen=True, gc=False):
    """Somebody connected: the policy, and until when it holds (Unix seconds). `seen` is how many notices there were by then.

    `acl` is the policy as a list for EMQX, where such lists are made. `who` is the name by which the account is found: the user
    name, or the principal of whoever has a token as the user name. A hundred thousand of these may be kept: nothing is here that
    can be told from what is.
    """

    policy: Policy
    expires_at: float
    ended: Deny
    rules: int
    session: Session | None
    seen: int
    who: str
    made_at: float
    shadow: Policy | None
    acl: PolicyList | None

    def keys(self, client_id: str) -> Sequence[str]:
        """Return the keys under which whoever this is may be revoked."""
        return keys_of_client(self.who, client_id, self.session)


@dataclass(frozen=True, slots=True)
class Remembered:
    """A decision from memory: how long ago (seconds) what it rests on was read, and how long it may still serve."""

    decision: Decision
    age: float
    left: float


class Directory:
    """Accounts, sessions and policies, with caches that follow the store's notices.

    While the store is away, what was loaded before goes on serving for `stale` seconds after its end; what is known to have changed
    never does.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        revoked: Revoked,
        *,
        entries: int,
        seconds: float,
        size: int = 2**40,
        stale: float = 0.0,
        patience: float | None = None,
        book: RuleBook | None = None,
        compared: Compared | None = None,
        compile_acl: CompileAcl | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._compile_acl = compile_acl
        self._overtaken = metrics.acl.overtaken
        self._book = book or RuleBook()
        self._compared = compared
        self._revoked = revoked
        self._now = now
        self._accounts: Cache[str, Account] = Cache(
            "account", entries, seconds, metrics, size=size, stale=stale, patience=patience, weigh=_weight_of_account
        )
        self._connected: Cache[tuple[str, str], _Connected] = Cache(
            "policy", entries, seconds, metrics, size=size, stale=stale, patience=patience, weigh=_weight_of_policy
        )
        self._sessions: Cache[tuple[str, str], tuple[int, Session]] = Cache(
            "session",
            entries,
            seconds,
            metrics,
            size=size,
            stale=stale,
            weigh=lambda known: _SESSION_BYTES + len(known[1].acl),
        )
        # Whose client id is known to have no token's session: with how many notices that was looked up.
        self._sessionless: Cache[tuple[str, str], int] = Cache("sessionless", entries, seconds, metrics, size=size)
        self._rules: dict[Rule, Rule] = {}
        self._notices = 0
        self._changed: dict[str, int] = {}

    async def account(self, username: str) -> Account | None:
        """Return the account, from the cache or the store. Accounts that do not exist are asked for each time."""
        account = self._accounts.get(username)
        if account is None or account is _NOBODY:
            account = await self._accounts.load(username, lambda: self._load_account(username))
        return None if account is _NOBODY else account

    def recall_account(self, username: str) -> Account | None:
        """Return the account if it is remembered, uncounted."""
        account = self._accounts.recall(username)
        return None if account is _NOBODY else account

    def recall_principal(self, username: str) -> tuple[bool, Account | None]:
        """Tell whether it is remembered what account, if any, bears the name of a platform principal, and which; uncounted."""
        account = self._accounts.recall(username)
        return account is not None, None if account is _NOBODY else account

    def used_account(self) -> None:
        """Count that an account was of use that memory recalled."""
        self._accounts.used()

    async def _account_until(self, username: str) -> tuple[Account | None, float]:
        """Return the same, and when what we remember of it ends."""
        account = await self.account(username)
        return account, self._accounts.end(username)

    async def principal_account(self, username: str) -> Account | None:
        """Return the account that bears the name of a platform principal, which then decides too. Most have none.

        That is cached as well: the name stands in a verified token, so nobody fills the cache with invented ones.
        """
        account = self._accounts.get(username)
        if account is None:
            epoch = self._accounts.epoch
            account = await self._accounts.load(username, lambda: self._load_account(username))
            if account is _NOBODY:
                self._accounts.put(username, _NOBODY, epoch)
        return None if account is _NOBODY else account

    async def principal(self, username: str) -> str:
        """Return whom the user name of a connected client stands for; without an account, itself, as with a platform's tokens."""
        account = await self.principal_account(username) if username else None
        return username if account is None else account.principal

    async def _load_account(self, username: str) -> Account:
        epoch = self._accounts.epoch
        account = await self._store.accounts.get(username)
        if account is None:
            if self._accounts.stale(username) is not None:
                # Who is known to be gone is remembered as such: what is remembered of the clients must not serve any more.
                self._accounts.put(username, _NOBODY, epoch)
            return _NOBODY
        self._accounts.put(username, account, epoch)
        return account

    async def start_session(self, session: Session) -> None:
        """Remember a token's session durably, so that any process can authorize it; a repetition costs a look-up."""
        key = (session.username, session.client_id)
        known = self._sessions.get(key)
        if known is not None and known[1] == session and self._is_current(session.principal, known[0]):
            return
        seen = self._notices
        try:
            await self._store.sessions.put(session)
        except Transient:
            known = self._sessions.stale(key)
            if known is None or known[1] != session or not self._is_current(session.principal, known[0]):
                raise
            return
        self._connected.forget(key)
        self._sessionless.forget(key)
        self._sessions.put(key, (seen, session), self._sessions.epoch)

    def recall_session(self, session: Session) -> bool:
        """Tell whether memory knows that this session was begun; only a yes counts as a look-up."""
        known = self._sessions.recall((session.username, session.client_id))
        # Mostly it is the same object, which is told sooner than that two are equal.
        same = known is not None and (known[1] is session or known[1] == session)
        if known is None or not same or not self._is_current(session.principal, known[0]):
            return False
        self._sessions.used()
        return True

    def recall_no_session(self, username: str, client_id: str) -> bool:
        """Tell whether this client id is known to have no token's session; only a yes counts as a look-up."""
        known = self._sessionless.recall((username, client_id))
        if known is None or not self._is_current(username, known):
            return False
        self._sessionless.used()
        return True

    def has_no_session(self, username: str, client_id: str) -> bool:
        """Tell whether this client id is known to have no token's session that would have to be ended.

        That another process has begun one is felt when what we remember ends, as it is by who is connected.
        """
        known = self._sessionless.get((username, client_id))
        return known is not None and self._is_current(username, known)

    async def end_session(self, username: str, client_id: str) -> None:
        """Forget an earlier token's session: this client id now belongs to an account."""
        key = (username, client_id)
        seen, epoch = self._notices, self._sessionless.epoch
        try:
            known = await self._store.sessions.get(username, client_id)
        except Transient:
            # Without the store only somebody of whom we know that there is no such session goes on.
            connected = self._connected.stale(key)
            if (
                connected is None
                or connected.session is not None
                or not self._is_current(connected.who, connected.seen)
            ):
                raise
            return
        if known is not None:
            await self._store.sessions.remove(username, client_id)
            self._sessions.forget(key)
            self._connected.forget(key)
        # Names that are remembered already, where they are the same: of most devices there is one text.
        account = self._accounts.stale(username)
        name = username if account is None or account.username != username else account.username
        self._sessionless.put((name, name if client_id == name else client_id), seen, epoch)

    async def decide(self, access: Access) -> Decision:
        """Judge a publish or subscribe by the policy of whoever is connected with this user name and client id."""
        username = access.username
        key = (username, access.client_id)
        connected = self._connected.get(key)
        now = self._now()
        # One that has expired is looked up again: another process may have taken a newer token since.
        if connected is None or connected.expires_at <= now or not self._is_current(connected.who, connected.seen):
            try:
                connected = await self._connected.load(key, lambda: self._load(*key), self._may_serve)
            except Refused as refused:
                return refused.deny
            now = self._now()
        if self._revoked.some and await self._revoked.refuses(connected.keys(access.client_id)):
            return REVOKED
        if connected.expires_at <= now:
            return connected.ended
        return self._judged(connected, access, now)

    def recall(self, access: Access) -> Decision | None:
        """Return the same from memory; None where the store has to be asked, and then nothing is counted."""
        connected = self._connected.recall((access.username, access.client_id))
        now = self._now()
        if connected is None or connected.expires_at <= now or not self._is_current(connected.who, connected.seen):
            return None
        if self._revoked.some and not self._revoked.clears_keys(connected.keys(access.client_id)):
            return None
        self._connected.used()
        return self._judged(connected, access, now)

    def _judged(self, connected: _Connected, access: Access, now: float) -> Decision:
        decision = connected.policy.decide(access, now)
        if connected.shadow is not None and self._compared is not None:
            self._compared(access, decision, connected.shadow.decide(access, now))
        return decision

    async def acl(self, username: str, client_id: str, peer_host: str) -> Listed | None:
        """Return the whole policy of somebody who has just logged in from this address as a list for EMQX, or why there is none.

        A list is for a whole session: none is made of what only serves because the store is away, nor of what has changed while it
        was loaded, which one more request would have shown otherwise. None: nobody by that name is known any more, or no lists are
        made. Raises `Transient` when there is no list for now.
        """
        key = (username, client_id)
        for _ in range(_LOADS):
            cleared = self._connected.cleared
            connected = self._connected.get(key)
            if (
                connected is None
                or connected.expires_at <= self._now()
                or not self._is_current(connected.who, connected.seen)
            ):
                try:
                    connected = await self._connected.load(key, lambda: self._load(*key), lambda _: False)
                except Refused:
                    return None
            if self._connected.cleared == cleared and self._is_current(connected.who, connected.seen):
                return None if connected.acl is None else connected.acl.at(self._now(), peer_host)
        raise Transient("rules change faster than they are read")

    def _is_current(self, username: str, seen: int) -> bool:
        """Tell whether nothing about this user is known to have changed since there were `seen` notices."""
        return seen >= self._changed.get(username, 0)

    def _may_serve(self, connected: _Connected) -> bool:
        """Judge a policy that has expired, for when the store is away: not by more than we know of the account since."""
        account = self._accounts.stale(connected.who)
        if account is _NOBODY and connected.session is None:
            return False
        refused = account is not None and refusal(account, self._now()) is not None
        return not refused and self._is_current(connected.who, connected.seen)

    async def _load(self, username: str, client_id: str) -> _Connected:
        try:
            return await self._look_up(username, client_id)
        except Refused:
            # What was remembered must not serve when the store is away the next time.
            self._connected.drop((username, client_id))
            raise

    async def _look_up(self, username: str, client_id: str) -> _Connected:
        if not username:
            raise Refused(NOT_CONNECTED)
        seen, epoch = self._notices, self._connected.epoch
        name, account, until, session = await self._found(username, client_id)
        if account is not None and account.username == username:
            # Of most devices there is one text, which is remembered already.
            name = name if name != username else account.username
            username, client_id = account.username, account.username if client_id == username else client_id
        now = self._now()
        who = principal_of(account, session, username, client_id, now)
        if session is not None and session.token and await self._store.tokens.get(session.token) is None:
            raise Refused(NOT_CONNECTED)
        stored = self._same(await self._store.rules.of(who.subjects))
        book = self._book
        rules = who.of(book.enforced, stored)
        policy = Policy(rules, who.values)
        shadow = None if book.shadow is None else _shadow(who.of(book.shadow, stored), who)
        size = policy.compiled + (0 if shadow is None else shadow.compiled)
        acl = None if self._compile_acl is None else PolicyList(self._compile_acl, rules, who.values)
        connected = _Connected(policy, who.expires_at, who.ended, size, session, seen, name, now, shadow, acl)
        # Made from an account that was remembered, it must not outlive it: two lives in a row would be longer than one may be.
        self._connected.put((username, client_id), connected, epoch, until)
        return connected

    async def _found(self, username: str, client_id: str) -> tuple[str, Account | None, float, Session | None]:
        """Return the name by which the account is found, the account, until when it may be remembered, and the session."""
        if is_name_of_token(username):
            session = await self._store.sessions.get(username, client_id)
            name = session.principal if session is not None else username
            return name, *await self._account_until(name), session
        (account, until), session = await asyncio.gather(
            self._account_until(username), self._store.sessions.get(username, client_id)
        )
        return username, account, until, session

    def use(self, book: RuleBook) -> None:
        """Decide by these rule sets from now on."""
        self._book = book
        self._connected.clear()
        if self._compile_acl:
            self._overtaken[Scope.RULES].count += 1

    @property
    def book(self) -> RuleBook:
        """The rule sets that decide now."""
        return self._book

    def remembered(self, access: Access) -> Remembered | None:
        """Return what would be decided from memory alone; None when the store would be asked."""
        key, now = (access.username, access.client_id), self._now()
        found = self._connected.peek(key)
        if found is None:
            return None
        connected, left = found
        if connected.expires_at <= now or not self._is_current(connected.who, connected.seen):
            return None
        decision = (
            REVOKED if self._revoked.knows(connected.keys(access.client_id)) else connected.policy.decide(access, now)
        )
        return Remembered(decision, max(0.0, now - connected.made_at), left)

    def _same(self, rules: Sequence[Rule]) -> Sequence[Rule]:
        """Return rules that are equal as one object: most hold for many principals, whose policies share what is in them."""
        if len(self._rules) > _KEPT_RULES:
            self._rules.clear()
        return [self._rules.setdefault(rule, rule) for rule in rules]

    async def follow(self) -> None:
        """Let go of what the store's notices speak about; never returns. Without them the caches run into their own end."""
        async with contextlib.aclosing(self._store.notices.follow()) as words:  # type: ignore[type-var]
            async for notices in words:
                self._revoked.heard(notices)
                if not notices:
                    # We listen from now on: what was remembered before may have changed unheard.
                    self._forget_everything()
                for notice in notices:
                    self._take(notice)

    def _take(self, notice: Notice) -> None:
        self._notices += 1
        if self._compile_acl and notice.scope in _OVERTAKING:
            self._overtaken[notice.scope].count += 1
        if notice.scope is Scope.REVOCATION:
            return  # who is revoked is looked for before anything that is remembered here
        if notice.scope is Scope.RULES:
            self._connected.clear()
        elif notice.scope is Scope.EVERYTHING or len(self._changed) >= _CHANGED:
            self._forget_everything()
        else:
            self._accounts.forget(notice.name)
            self._changed[notice.name] = self._notices

    def _forget_everything(self) -> None:
        self._accounts.clear()
        self._connected.clear()
        self._sessions.clear()
        self._sessionless.clear()
        self._changed.clear()


def _shadow(rules: Sequence[Rule], who: Principal) -> Policy | None:
    """Return the policy that only shows what it would decide; without one where it cannot be made, which harms nobody."""
    try:
        return Policy(rules, who.values)
    except Invalid as problem:
        log.warning("a shadow rule cannot be enforced", field=problem.field, problem=problem.allowed)
        return None


def _weight_of_account(account: Account) -> int:
    texts = len(account.password_hash) + len(account.username) + len(account.principal) + sum(map(len, account.groups))
    return _ACCOUNT_BYTES + texts + _RULE_BYTES * len(account.rules)


def _weight_of_policy(connected: _Connected) -> int:
    listed = 0 if connected.acl is None else connected.acl.size
    compiled = _COMPILED_BYTES + _RULE_BYTES * connected.rules if connected.rules else 0
    return _POLICY_BYTES + compiled + listed
