"""The inbox of changes in SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from companion.core.model import Change, ChangeOp, Document
from companion.core.ports import Received, Taken
from companion.stores.embedded.database import Database, removing

_COLUMNS: Final = "position, event_id, op, db, collection, entity, at, before, after"
_LIVE: Final = "acknowledged_at IS NULL AND dead IS NULL"


def _encode(document: Document | None) -> str | None:
    return None if document is None else msgspec.json.encode(document).decode()


def _received(row: tuple[Any, ...]) -> Received:
    position, event_id, op, db, collection, entity, at, before, after = row
    change = Change(
        event_id,
        ChangeOp(op),
        db,
        collection,
        entity,
        at,
        None if before is None else msgspec.json.decode(before),
        None if after is None else msgspec.json.decode(after),
    )
    return Received(position, change)


def taken(connection: sqlite3.Connection, after: int, limit: int) -> Sequence[Received]:
    """Return up to `limit` changes behind `after`, in order, whatever became of them."""
    query = f"SELECT {_COLUMNS} FROM inbox WHERE position > ? ORDER BY position LIMIT ?"
    return [_received(row) for row in connection.execute(query, (after, limit))]


class EmbeddedInbox:
    """The port `Inbox`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, changes: Sequence[Change]) -> Taken:
        """Store all or none, each event id once; durable when this returns."""
        taken_at = int(time.time() * 1000)
        rows = [
            (
                change.event_id,
                change.op.value,
                change.db,
                change.collection,
                change.id,
                change.at,
                _encode(change.before),
                _encode(change.after),
                taken_at,
            )
            for change in changes
        ]

        def job(connection: sqlite3.Connection) -> Taken:
            accepted = 0
            for row in rows:
                accepted += connection.execute(
                    "INSERT INTO inbox (event_id, op, db, collection, entity, at, before, after, taken_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING",
                    row,
                ).rowcount
            return Taken(accepted, len(rows) - accepted)

        return await self._database.write(job)

    async def read(self, after: int, limit: int) -> Sequence[Received]:
        """Return up to `limit` changes behind `after`, in order, that are neither acknowledged nor dead."""

        def job(connection: sqlite3.Connection) -> Sequence[Received]:
            query = f"SELECT {_COLUMNS} FROM inbox WHERE position > ? AND {_LIVE} ORDER BY position LIMIT ?"
            return [_received(row) for row in connection.execute(query, (after, limit))]

        return await self._database.read(job)

    async def acknowledge(self, acknowledged: Sequence[tuple[int, int]]) -> None:
        """Note when every message of these changes was acknowledged."""
        rows = [(at, position) for position, at in acknowledged]

        def job(connection: sqlite3.Connection) -> None:
            connection.executemany("UPDATE inbox SET acknowledged_at = ? WHERE position = ?", rows)

        await self._database.write(job)

    async def bury(self, position: int, reason: str) -> None:
        """Mark the change at `position` as dead."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE inbox SET dead = ? WHERE position = ?", (reason, position))

        await self._database.write(job)

    async def dead(self, *, limit: int = 1000) -> Sequence[tuple[Received, str]]:
        """Return up to `limit` dead changes with their reasons, oldest first."""

        def job(connection: sqlite3.Connection) -> Sequence[tuple[Received, str]]:
            query = f"SELECT {_COLUMNS}, dead FROM inbox WHERE dead IS NOT NULL ORDER BY position LIMIT ?"
            return [(_received(row[:-1]), row[-1]) for row in connection.execute(query, (limit,))]

        return await self._database.read(job)

    async def backlog(self, after: int) -> int:
        """Return how many live changes lie behind the position `after`."""

        def job(connection: sqlite3.Connection) -> int:
            (count,) = connection.execute(
                f"SELECT count(*) FROM inbox WHERE position > ? AND {_LIVE}", (after,)
            ).fetchone()
            return int(count)

        return await self._database.read(job)

    async def prune(self, *, through: int, before: int, limit: int, dry: bool = False) -> int:
        """Remove up to `limit` live changes at or before `through` that were taken before `before` (Unix milliseconds)."""
        due = (
            "SELECT position FROM inbox WHERE position <= ? AND taken_at < ? AND dead IS NULL ORDER BY position LIMIT ?"
        )
        return await self._database.write(removing("inbox", "position", due, (through, before, limit), dry=dry))
