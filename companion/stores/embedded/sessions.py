"""Platform sessions in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Final

from companion.core.model import Session
from companion.core.ports.identities import SessionField
from companion.stores.embedded.accounts import as_text, names_in
from companion.stores.embedded.database import Database, removing

_NAMES: Final = tuple(column.name for column in fields(Session))
_COLUMNS: Final = ", ".join(_NAMES)
_MARKS: Final = ", ".join("?" for _ in _NAMES)
_values: Final = attrgetter(*_NAMES)


class EmbeddedSessions:
    """The port `Sessions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, session: Session) -> None:
        """Store it, in place of an earlier one of the same user name and client id."""
        row = [as_text(value) if isinstance(value, tuple) else value for value in _values(session)]

        def job(connection: sqlite3.Connection) -> None:
            connection.execute(f"INSERT OR REPLACE INTO sessions ({_COLUMNS}) VALUES ({_MARKS})", row)

        await self._database.write(job)

    async def get(self, username: str, client_id: str) -> Session | None:
        """Return the session, also an expired one; None when there is none."""

        def job(connection: sqlite3.Connection) -> Session | None:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM sessions WHERE username = ? AND client_id = ?", (username, client_id)
            ).fetchone()
            if row is None:
                return None
            values = dict(zip(_NAMES, row, strict=True))
            return Session(**values | {"groups": names_in(values["groups"])})

        return await self._database.look(job)

    async def remove(self, username: str, client_id: str) -> None:
        """Forget it; no error when there is none."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM sessions WHERE username = ? AND client_id = ?", (username, client_id))

        await self._database.write(job)

    async def client_ids(self, by: SessionField, value: str, *, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Return up to `limit` client ids of the sessions with this value, in order, those behind `after`."""
        # The second condition lets the partial indexes serve.
        query = (
            f"SELECT DISTINCT client_id FROM sessions WHERE {by} = ? AND {by} <> '' AND client_id > ?"
            " ORDER BY client_id LIMIT ?"
        )

        def job(connection: sqlite3.Connection) -> Sequence[str]:
            return [row[0] for row in connection.execute(query, (value, after, limit))]

        return await self._database.read(job)

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` sessions that expired before `before` (Unix seconds); return how many."""
        due = "SELECT username, client_id FROM sessions WHERE expires_at < ? ORDER BY expires_at LIMIT ?"
        return await self._database.write(removing("sessions", "(username, client_id)", due, (before, limit), dry=dry))
