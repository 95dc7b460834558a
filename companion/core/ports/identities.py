"""Who connects, what they may, and word of what changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, Protocol

from companion.core.model import Account, AccountSecret, Notice, Session
from companion.core.rules import Rule

SessionField = Literal["session", "jti", "digest"]
"""By what sessions are found that belong together."""


class Accounts(Protocol):
    """People, devices and services that connect with a user name and a password."""

    async def get(self, username: str) -> Account | None:
        """Return the account, also a disabled or expired one; None when there is none."""
        ...

    async def add(self, accounts: Sequence[Account]) -> None:
        """Add all of them or none. Raises `Invalid` naming the first user name that exists already."""
        ...

    async def set_password(self, username: str, password_hash: str, scram: str = "") -> bool:
        """Replace the hash and what is kept for SCRAM, which is of the same password; False when there is no such account."""
        ...

    async def replace_hash(self, username: str, old: str, new: str) -> bool:
        """Replace the hash if it is still `old`; False when it is not, or there is no such account."""
        ...

    async def adjust(
        self,
        username: str,
        *,
        attributes: Mapping[str, str] | None = None,
        superuser: bool | None = None,
        certificates: Sequence[str] | None = None,
    ) -> bool:
        """Replace those that are given; False when there is no such account."""
        ...

    async def add_secret(self, username: str, secret: AccountSecret) -> bool:
        """Give the account one more secret; False when there is no such account.

        Raises `Invalid` when it has that id already, or `MAX_SECRETS` of them.
        """
        ...

    async def remove_secret(self, username: str, secret_id: str) -> bool:
        """Take a secret away; False when there is no such account or secret."""
        ...

    async def set_disabled(self, username: str, *, disabled: bool) -> bool:
        """Disable or enable; False when there is no such account."""
        ...

    async def set_membership(self, username: str, *, groups: Sequence[str], tenant: str) -> bool:
        """Replace the groups and the tenant (empty for none); False when there is no such account."""
        ...

    async def list(self, *, after: str = "", limit: int = 1000) -> Sequence[Account]:
        """Return up to `limit` accounts in the order of their user names, those behind `after`."""
        ...


class Rules(Protocol):
    """Stored rules."""

    async def add(self, rule: Rule) -> Rule:
        """Store the rule and return it with its id. Raises `Invalid` for a rule that cannot be enforced."""
        ...

    async def remove(self, rule_id: str) -> bool:
        """Remove; False when there is no such rule."""
        ...

    async def of(self, subjects: Sequence[str]) -> Sequence[Rule]:
        """Return the rules of these subjects, oldest first."""
        ...

    async def list(self) -> Sequence[Rule]:
        """Return every rule, oldest first."""
        ...


class Sessions(Protocol):
    """Platform sessions that logged in with an access token, so that any replica can authorize them later."""

    async def put(self, session: Session) -> None:
        """Store it, in place of an earlier one of the same user name and client id."""
        ...

    async def get(self, username: str, client_id: str) -> Session | None:
        """Return the session, also an expired one; None when there is none."""
        ...

    async def remove(self, username: str, client_id: str) -> None:
        """Forget it; no error when there is none."""
        ...

    async def client_ids(self, by: SessionField, value: str, *, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Return up to `limit` client ids of the sessions with this value, in order, those behind `after`; one may come twice."""
        ...

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` sessions that expired before `before` (Unix seconds); return how many. `dry` only counts them."""
        ...


class Notices(Protocol):
    """Word of what changed, from whichever process changed it, so that caches let go of it."""

    async def announce(self, notice: Notice) -> None:
        """Tell every follower, in this process and in others; those who are away for a while get it when they are back."""
        ...

    def follow(self) -> AsyncIterator[Sequence[Notice]]:
        """Yield for ever what changed, soon after it did.

        The first item is empty and comes once we are listening: what changes after it is told. A store that is away is waited for
        inside; when it cannot be shown that nothing was missed, EVERYTHING is told. Telling too much is right, too little is not.
        Close the iterator (`contextlib.aclosing`) to stop.
        """
        ...


class Counters(Protocol):
    """Counts of what happens too often, shared by every process where the store is shared."""

    async def add(self, key: str, seconds: float) -> int:
        """Count one more and return the count; the first of a count begins a window, with whose end the count is forgotten."""
        ...


class Uses(Protocol):
    """When credentials were last used: known roughly, written lazily, missed by nobody."""

    async def note(self, uses: Mapping[str, int]) -> None:
        """Keep for each name of a credential when it was used (Unix seconds); the latest stays."""
        ...

    async def latest(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return when these were last used; those that never were are left out."""
        ...

    async def forget(self, names: Sequence[str]) -> None:
        """Forget these; no error for what is not known."""
        ...
