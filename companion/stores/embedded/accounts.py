"""Accounts in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from companion.core.errors import Invalid
from companion.core.model import Account, Kind
from companion.core.revocations import Cause
from companion.stores.embedded.account_changes import note_change
from companion.stores.embedded.database import Database

_COLUMNS: Final = "username, kind, principal, password_hash, disabled, expires_at, subjects, groups, tenant"
_MARKS: Final = ", ".join("?" for _ in _COLUMNS.split(","))
_Row = tuple[str, str, str, str, int, int | None, str, str, str]


def _account(row: _Row) -> Account:
    username, kind, principal, password_hash, disabled, expires_at, subjects, groups, tenant = row
    return Account(
        username,
        Kind(kind),
        principal,
        password_hash,
        disabled=bool(disabled),
        expires_at=expires_at,
        subjects=tuple(subjects.split("\n")) if subjects else (),
        groups=names_in(groups),
        tenant=tenant,
    )


def as_text(names: Sequence[str]) -> str:
    """Return a list of names as a column holds it."""
    return json.dumps(list(names)) if names else ""


def names_in(text: str) -> tuple[str, ...]:
    """Return the names that a column holds."""
    return tuple(json.loads(text)) if text else ()


class EmbeddedAccounts:
    """The port `Accounts`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, username: str) -> Account | None:
        """Return the account of this user name, or None."""

        def job(connection: sqlite3.Connection) -> Account | None:
            row = connection.execute(f"SELECT {_COLUMNS} FROM accounts WHERE username = ?", (username,)).fetchone()
            return _account(row) if row else None

        return await self._database.read(job)

    async def add(self, accounts: Sequence[Account]) -> None:
        """Add all or none; `Invalid` names a user name that exists."""

        def job(connection: sqlite3.Connection) -> None:
            for account in accounts:
                row = (
                    account.username,
                    account.kind.value,
                    account.principal,
                    account.password_hash,
                    int(account.disabled),
                    account.expires_at,
                    "\n".join(account.subjects),
                    as_text(account.groups),
                    account.tenant,
                )
                try:
                    connection.execute(f"INSERT INTO accounts ({_COLUMNS}) VALUES ({_MARKS})", row)
                except sqlite3.IntegrityError:
                    raise Invalid("username", account.username, "a user name that does not exist yet") from None

        await self._database.write(job)

    async def set_password(self, username: str, password_hash: str) -> bool:
        """Replace the hash; False when there is no such account."""
        return await self._update("password_hash = ?", (password_hash,), username, Cause.PASSWORD)

    async def set_disabled(self, username: str, *, disabled: bool) -> bool:
        """Disable or enable; False when there is no such account."""
        cause = Cause.DISABLED if disabled else None
        return await self._update("disabled = ?", (int(disabled),), username, cause)

    async def set_membership(self, username: str, *, groups: Sequence[str], tenant: str) -> bool:
        """Replace the groups and the tenant; False when there is no such account."""
        return await self._update("groups = ?, tenant = ?", (as_text(groups), tenant), username)

    async def list(self, *, after: str = "", limit: int = 1000) -> Sequence[Account]:
        """Return up to `limit` accounts behind the user name `after`."""

        def job(connection: sqlite3.Connection) -> Sequence[Account]:
            query = f"SELECT {_COLUMNS} FROM accounts WHERE username > ? ORDER BY username LIMIT ?"
            return [_account(row) for row in connection.execute(query, (after, limit))]

        return await self._database.read(job)

    async def _update(
        self, columns: str, values: tuple[str | int, ...], username: str, cause: Cause | None = None
    ) -> bool:
        """Change columns, and note that whoever is connected has to go for this cause, if any."""

        def job(connection: sqlite3.Connection) -> bool:
            cursor = connection.execute(f"UPDATE accounts SET {columns} WHERE username = ?", (*values, username))
            if cursor.rowcount and cause is not None:
                note_change(connection, username, cause)
            return cursor.rowcount == 1

        return await self._database.write(job)
