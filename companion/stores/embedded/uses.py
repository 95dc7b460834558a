"""When credentials were last used, in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from companion.stores.embedded.database import Database


class EmbeddedUses:
    """The port `Uses`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(self, uses: Mapping[str, int]) -> None:
        """Keep when these were used; the latest stays."""

        def job(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO uses (name, at) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET at = max(at, excluded.at)",
                list(uses.items()),
            )

        await self._database.write(job)

    async def latest(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return when these were last used."""

        def job(connection: sqlite3.Connection) -> Mapping[str, int]:
            found: dict[str, int] = {}
            for name in names:
                row = connection.execute("SELECT at FROM uses WHERE name = ?", (name,)).fetchone()
                if row:
                    found[name] = row[0]
            return found

        return await self._database.read(job)

    async def forget(self, names: Sequence[str]) -> None:
        """Forget these; no error for what is not known."""

        def job(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM uses WHERE name = ?", [(name,) for name in names])

        await self._database.write(job)
