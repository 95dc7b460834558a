"""Accounts that changed, in SQLite: noted in the transaction of the change itself, and kept until somebody looked after them."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from typing import Final

from companion.core.ports import AccountChange
from companion.core.revocations import Cause
from companion.stores.embedded.checkpoints import EmbeddedCheckpoints
from companion.stores.embedded.database import Database

NAME: Final = "account-changes"
_KEPT: Final = 10_000
_IDLE_SECONDS: Final = 0.2


def note_change(connection: sqlite3.Connection, username: str, cause: Cause) -> None:
    """Note a change in the transaction that is open. Where nobody looks after them, only the newest are kept."""
    number = connection.execute(
        "INSERT INTO account_changes (username, cause, at) VALUES (?, ?, ?)",
        (username, cause.value, int(time.time() * 1000)),
    ).lastrowid
    connection.execute("DELETE FROM account_changes WHERE number <= ?", ((number or 0) - _KEPT,))


class EmbeddedAccountChanges:
    """The port `AccountChanges`; positions are numbers in decimal."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._checkpoints = EmbeddedCheckpoints(database)
        self._fence = 0
        self._read = 0

    async def open(self, fence: int) -> None:
        """Claim the place and go there."""
        position = await self._checkpoints.claim(NAME, fence)
        self._fence = fence
        if position is None:
            position = str(await self._database.read(_newest))
            await self._checkpoints.save(NAME, position, fence)
        self._read = int(position)

    async def read(self, limit: int) -> Sequence[AccountChange]:
        """Return what follows; with nothing new, wait a moment."""

        def job(connection: sqlite3.Connection) -> Sequence[AccountChange]:
            query = "SELECT number, username, cause, at FROM account_changes WHERE number > ? ORDER BY number LIMIT ?"
            rows = connection.execute(query, (self._read, limit))
            return [AccountChange(str(row[0]), row[1], Cause(row[2]), str(row[0]), row[3]) for row in rows]

        found = await self._database.read(job)
        if found:
            self._read = int(found[-1].position)
        else:
            await asyncio.sleep(_IDLE_SECONDS)
        return found

    async def save(self, position: str) -> None:
        """Note that all up to this position is looked after; then it is not kept any more."""
        await self._checkpoints.save(NAME, position, self._fence)

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM account_changes WHERE number <= ?", (int(position),))

        await self._database.write(job)

    async def close(self) -> None:
        """Nothing is held."""


def _newest(connection: sqlite3.Connection) -> int:
    """Return the highest number that was ever given."""
    found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'account_changes'").fetchone()
    return int(found[0]) if found else 0
