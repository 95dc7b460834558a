"""Long-lived tokens in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.long_tokens import LongToken
from companion.stores.embedded.database import Database

_COLUMNS: Final = "id, digest, username, scopes, name, expires_at, addresses, created_at"


def _token(row: tuple[Any, ...]) -> LongToken:
    token_id, digest, username, scopes, name, expires_at, addresses, created_at = row
    lists = tuple(json.loads(scopes)), tuple(json.loads(addresses))
    return LongToken(token_id, digest, username, lists[0], name, expires_at, lists[1], created_at)


class EmbeddedTokens:
    """The port `LongTokens`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, token: LongToken) -> None:
        """Store it; `Invalid` for an id that exists already."""
        row = (
            token.id,
            token.digest,
            token.username,
            json.dumps(token.scopes),
            token.name,
            token.expires_at,
            json.dumps(token.addresses),
            token.created_at,
        )

        def job(connection: sqlite3.Connection) -> None:
            try:
                connection.execute(f"INSERT INTO tokens ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise Invalid("id", token.id, "an id that does not exist yet") from None

        await self._database.write(job)

    async def get(self, token_id: str) -> LongToken | None:
        """Return the token, or None."""

        def job(connection: sqlite3.Connection) -> LongToken | None:
            row = connection.execute(f"SELECT {_COLUMNS} FROM tokens WHERE id = ?", (token_id,)).fetchone()
            return _token(row) if row else None

        return await self._database.read(job)

    async def remove(self, token_id: str) -> bool:
        """Remove it; False when there is no such token."""

        def job(connection: sqlite3.Connection) -> bool:
            return connection.execute("DELETE FROM tokens WHERE id = ?", (token_id,)).rowcount == 1

        return await self._database.write(job)

    async def list(self, username: str = "") -> Sequence[LongToken]:
        """Return all of them, or those of this user name, in the order of their ids."""

        def job(connection: sqlite3.Connection) -> Sequence[LongToken]:
            query = f"SELECT {_COLUMNS} FROM tokens WHERE ? IN ('', username) ORDER BY id"
            return [_token(row) for row in connection.execute(query, (username,))]

        return await self._database.read(job)
