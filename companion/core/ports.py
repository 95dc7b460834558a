"""Ports: what the services need of a store, as Protocols that list only the calls in use.

Every call may raise `Transient` (the store is away; try again) or `Permanent` (it will never work); no driver's own error
passes. Every adapter runs the suites in `tests/contracts/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from companion.core.model import Account, Audit, Change, Session
from companion.core.rules import Rule


class Accounts(Protocol):
    """People, devices and services that connect with a user name and a password."""

    async def get(self, username: str) -> Account | None:
        """Return the account, also a disabled or expired one; None when there is none."""
        ...

    async def add(self, accounts: Sequence[Account]) -> None:
        """Add all of them or none. Raises `Invalid` naming the first user name that exists already."""
        ...

    async def set_password(self, username: str, password_hash: str) -> bool:
        """Replace the hash; False when there is no such account."""
        ...

    async def set_disabled(self, username: str, *, disabled: bool) -> bool:
        """Disable or enable; False when there is no such account."""
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

    async def prune(self, before: int, limit: int) -> int:
        """Remove up to `limit` sessions that expired before `before` (Unix seconds); return how many."""
        ...


class Generations(Protocol):
    """A cheap look at whether what decisions rest on (accounts, rules, sessions) has changed since."""

    async def current(self) -> int:
        """Return a number that grows with every committed change of an account or a rule, by whatever process."""
        ...


@dataclass(frozen=True, slots=True)
class Received:
    """A change in the inbox with its position; positions grow by at least one and are never used again."""

    position: int
    change: Change


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a batch: how many changes are new, and how many were known by their event id."""

    accepted: int
    duplicates: int


class Inbox(Protocol):
    """Changes taken over from others, kept durably until they are published."""

    async def append(self, changes: Sequence[Change]) -> Taken:
        """Store all of them or none, in order, each event id once; durable (fsync) when this returns."""
        ...

    async def read(self, after: int, limit: int) -> Sequence[Received]:
        """Return up to `limit` changes behind the position `after`, in order, that are neither acknowledged nor dead."""
        ...

    async def acknowledge(self, acknowledged: Sequence[tuple[int, int]]) -> None:
        """Note for each (position, Unix milliseconds) that every message of the change was acknowledged, and when."""
        ...

    async def bury(self, position: int, reason: str) -> None:
        """Mark the change at `position` as dead: it could not be published, is kept, and says why."""
        ...

    async def dead(self, *, limit: int = 1000) -> Sequence[tuple[Received, str]]:
        """Return up to `limit` dead changes with their reasons, oldest first."""
        ...

    async def backlog(self, after: int) -> int:
        """Return how many changes behind the position `after` are neither acknowledged nor dead."""
        ...

    async def prune(self, *, through: int, before: int, limit: int) -> int:
        """Remove up to `limit` changes at or before position `through` that were taken before `before` (Unix milliseconds).

        Dead changes stay. Returns how many were removed; their event ids are forgotten with them.
        """
        ...


class Checkpoints(Protocol):
    """How far a reader of changes has come: everything up to the position is acknowledged."""

    async def load(self, name: str) -> int:
        """Return the position; 0 when nothing was saved."""
        ...

    async def save(self, name: str, position: int) -> None:
        """Store the position durably. A position lower than the stored one leaves the stored one."""
        ...


class Audits(Protocol):
    """Decisions worth keeping."""

    async def append(self, records: Sequence[Audit]) -> None:
        """Store them, in order."""
        ...

    async def latest(self, limit: int) -> Sequence[Audit]:
        """Return the newest records, newest first."""
        ...

    async def prune(self, before: int, limit: int) -> int:
        """Remove up to `limit` records older than `before` (Unix milliseconds); return how many."""
        ...

    async def trim(self, keep: int, limit: int) -> int:
        """Remove up to `limit` of the oldest records beyond the newest `keep`; return how many."""
        ...


class Store(Protocol):
    """One profile's adapters, opened and closed together."""

    @property
    def accounts(self) -> Accounts:
        """Accounts."""
        ...

    @property
    def rules(self) -> Rules:
        """Rules."""
        ...

    @property
    def sessions(self) -> Sessions:
        """Platform sessions."""
        ...

    @property
    def generations(self) -> Generations:
        """The sign that accounts or rules changed."""
        ...

    @property
    def inbox(self) -> Inbox:
        """Changes to publish."""
        ...

    @property
    def checkpoints(self) -> Checkpoints:
        """Positions of readers."""
        ...

    @property
    def audits(self) -> Audits:
        """Decisions worth keeping."""
        ...

    async def ping(self) -> None:
        """Raise `Transient` when the store cannot serve."""
        ...
