"""Accounts in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.model import ACCOUNT_FIELDS, MAX_SECRETS, Account, AccountSecret, Kind
from companion.core.revocations import Cause
from companion.stores.embedded.account_changes import note_change
from companion.stores.embedded.database import Database

_COLUMNS: Final = ", ".join(ACCOUNT_FIELDS)
_MARKS: Final = ", ".join(f":{name}" for name in ACCOUNT_FIELDS)


def _account(row: tuple[Any, ...]) -> Account:
    one = dict(zip(ACCOUNT_FIELDS, row, strict=True))
    return Account(
        one["username"],
        Kind(one["kind"]),
        one["principal"],
        one["password_hash"],
        disabled=bool(one["disabled"]),
        expires_at=one["expires_at"],
        subjects=tuple(one["subjects"].split("\n")) if one["subjects"] else (),
        groups=names_in(one["groups"]),
        tenant=one["tenant"],
        secrets=_secrets(one["secrets"]),
        attributes=json.loads(one["attributes"]),
        superuser=bool(one["superuser"]),
        certificates=tuple(json.loads(one["certificates"])),
        scram=one["scram"],
    )


def _row(account: Account) -> Mapping[str, object]:
    return {
        "username": account.username,
        "kind": account.kind.value,
        "principal": account.principal,
        "password_hash": account.password_hash,
        "disabled": int(account.disabled),
        "expires_at": account.expires_at,
        "subjects": "\n".join(account.subjects),
        "groups": as_text(account.groups),
        "tenant": account.tenant,
        "secrets": _text(account.secrets),
        "attributes": json.dumps(dict(account.attributes), ensure_ascii=False),
        "superuser": int(account.superuser),
        "certificates": json.dumps(account.certificates, ensure_ascii=False),
        "scram": account.scram,
    }


def as_text(names: Sequence[str]) -> str:
    """Return a list of names as a column holds it."""
    return json.dumps(list(names)) if names else ""


def names_in(text: str) -> tuple[str, ...]:
    """Return the names that a column holds."""
    return tuple(json.loads(text)) if text else ()


def _secrets(text: str) -> tuple[AccountSecret, ...]:
    return tuple(AccountSecret(*one) for one in json.loads(text)) if text else ()


def _text(secrets: Sequence[AccountSecret]) -> str:
    if not secrets:
        return ""
    return json.dumps([(one.id, one.password_hash, one.not_before, one.not_after) for one in secrets])


class EmbeddedAccounts:
    """The port `Accounts`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, username: str) -> Account | None:
        """Return the account of this user name, or None."""

        def job(connection: sqlite3.Connection) -> Account | None:
            row = connection.execute(f"SELECT {_COLUMNS} FROM accounts WHERE username = ?", (username,)).fetchone()
            return _account(row) if row else None

        return await self._database.look(job)

    async def add(self, accounts: Sequence[Account]) -> None:
        """Add all or none; `Invalid` names a user name that exists."""

        def job(connection: sqlite3.Connection) -> None:
            for account in accounts:
                try:
                    connection.execute(f"INSERT INTO accounts ({_COLUMNS}) VALUES ({_MARKS})", _row(account))
                except sqlite3.IntegrityError:
                    raise Invalid("username", account.username, "a user name that does not exist yet") from None

        await self._database.write(job)

    async def set_password(self, username: str, password_hash: str, scram: str = "") -> bool:
        """Replace the hash; False when there is no such account."""
        return await self._update("password_hash = ?, scram = ?", (password_hash, scram), username, Cause.PASSWORD)

    async def replace_hash(self, username: str, old: str, new: str) -> bool:
        """Replace the hash if it is still `old`; False when it is not, or there is no such account."""

        def job(connection: sqlite3.Connection) -> bool:
            query = "UPDATE accounts SET password_hash = ? WHERE username = ? AND password_hash = ?"
            return connection.execute(query, (new, username, old)).rowcount == 1

        return await self._database.write(job)

    async def adjust(
        self,
        username: str,
        *,
        attributes: Mapping[str, str] | None = None,
        superuser: bool | None = None,
        certificates: Sequence[str] | None = None,
    ) -> bool:
        """Replace those that are given; False when there is no such account."""
        # Not escaped: SQLite refuses what is no UTF-8.
        text = None if attributes is None else json.dumps(dict(attributes), ensure_ascii=False)
        pins = None if certificates is None else json.dumps(list(certificates), ensure_ascii=False)
        row = (text, None if superuser is None else int(superuser), pins, username)

        def job(connection: sqlite3.Connection) -> bool:
            query = (
                "UPDATE accounts SET attributes = coalesce(?, attributes), superuser = coalesce(?, superuser),"
                " certificates = coalesce(?, certificates) WHERE username = ?"
            )
            return connection.execute(query, row).rowcount == 1

        return await self._database.write(job)

    async def add_secret(self, username: str, secret: AccountSecret) -> bool:
        """Give the account one more secret; False when there is no such account."""

        def job(connection: sqlite3.Connection) -> bool:
            secrets = _secrets_of(connection, username)
            if secrets is None:
                return False
            if len(secrets) >= MAX_SECRETS:
                raise Invalid("secret", len(secrets) + 1, f"at most {MAX_SECRETS} beside the password")
            if any(one.id == secret.id for one in secrets):
                raise Invalid("secret", secret.id, "an id that the account does not have yet")
            return _put(connection, username, (*secrets, secret))

        return await self._database.write(job)

    async def remove_secret(self, username: str, secret_id: str) -> bool:
        """Take a secret away; False when there is no such account or secret."""

        def job(connection: sqlite3.Connection) -> bool:
            secrets = _secrets_of(connection, username) or ()
            kept = [one for one in secrets if one.id != secret_id]
            if len(kept) == len(secrets):
                return False
            note_change(connection, username, Cause.SECRET)
            return _put(connection, username, kept)

        return await self._database.write(job)

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


def _secrets_of(connection: sqlite3.Connection, username: str) -> tuple[AccountSecret, ...] | None:
    row = connection.execute("SELECT secrets FROM accounts WHERE username = ?", (username,)).fetchone()
    return None if row is None else _secrets(row[0])


def _put(connection: sqlite3.Connection, username: str, secrets: Sequence[AccountSecret]) -> bool:
    row = (_text(secrets), username)
    return connection.execute("UPDATE accounts SET secrets = ? WHERE username = ?", row).rowcount == 1
