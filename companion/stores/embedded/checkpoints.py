"""Checkpoints in SQLite."""

from __future__ import annotations

import sqlite3

from companion.core.errors import Fenced
from companion.stores.embedded.database import Database


class EmbeddedCheckpoints:
    """The port `Checkpoints`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, name: str) -> str | None:
        """Return the position; None when nothing was saved."""

        def job(connection: sqlite3.Connection) -> str | None:
            return _position(connection, name)

        return await self._database.read(job)

    async def claim(self, name: str, fence: int) -> str | None:
        """Return the position, and refuse lower fences from now on."""

        def job(connection: sqlite3.Connection) -> str | None:
            written = connection.execute(
                "INSERT INTO checkpoints VALUES (?, NULL, ?) ON CONFLICT (name)"
                " DO UPDATE SET fence = excluded.fence WHERE fence <= excluded.fence",
                (name, fence),
            ).rowcount
            _check(written, name, fence)
            return _position(connection, name)

        return await self._database.write(job)

    async def save(self, name: str, position: str, fence: int) -> None:
        """Store the position durably, unless a higher fence has been here."""

        def job(connection: sqlite3.Connection) -> None:
            written = connection.execute(
                "INSERT INTO checkpoints VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
                " SET position = excluded.position, fence = excluded.fence WHERE fence <= excluded.fence",
                (name, position, fence),
            ).rowcount
            _check(written, name, fence)

        await self._database.write(job)


def _position(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute("SELECT position FROM checkpoints WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def _check(written: int, name: str, fence: int) -> None:
    if not written:
        raise Fenced(f"checkpoint {name}: fence {fence} is not the newest")
