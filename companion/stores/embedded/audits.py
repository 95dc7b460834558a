"""Audit records in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import fields
from itertools import chain
from operator import attrgetter
from typing import Final

from companion.core.model import Audit
from companion.stores.embedded.database import Database, removing

_AUDIT_COLUMNS: Final = ", ".join(column.name for column in fields(Audit))
_AUDIT_MARKS: Final = ", ".join("?" for _ in fields(Audit))
_AUDITS_A_STATEMENT: Final = 100
# `dataclasses.astuple` copies deeply, which takes as long as a whole answer of the hooks.
_audit_row: Final = attrgetter(*(column.name for column in fields(Audit)))


def recorded(connection: sqlite3.Connection, after: int, limit: int) -> Sequence[tuple[int, Audit]]:
    """Return up to `limit` records with a number behind `after`, each with its own."""
    query = f"SELECT id, {_AUDIT_COLUMNS} FROM audits WHERE id > ? ORDER BY id LIMIT ?"
    return [(row[0], Audit(*row[1:])) for row in connection.execute(query, (after, limit))]


class EmbeddedAudits:
    """The port `Audits`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, records: Sequence[Audit]) -> None:
        """Store them, in order."""
        rows = [_audit_row(record) for record in records]

        def job(connection: sqlite3.Connection) -> None:
            # Many records a statement: between two statements this thread and the event loop contend for the interpreter's lock.
            for start in range(0, len(rows), _AUDITS_A_STATEMENT):
                some = rows[start : start + _AUDITS_A_STATEMENT]
                marks = ", ".join([f"({_AUDIT_MARKS})"] * len(some))
                values = list(chain.from_iterable(some))
                connection.execute(f"INSERT INTO audits ({_AUDIT_COLUMNS}) VALUES {marks}", values)

        await self._database.write(job)

    async def latest(self, limit: int) -> Sequence[Audit]:
        """Return the newest records, newest first."""

        def job(connection: sqlite3.Connection) -> Sequence[Audit]:
            query = f"SELECT {_AUDIT_COLUMNS} FROM audits ORDER BY id DESC LIMIT ?"
            return [Audit(*row) for row in connection.execute(query, (limit,))]

        return await self._database.read(job)

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` records older than `before` (Unix milliseconds); return how many."""
        due = "SELECT id FROM audits WHERE at < ? ORDER BY at LIMIT ?"
        return await self._database.write(removing("audits", "id", due, (before, limit), dry=dry))

    async def trim(self, keep: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` of the oldest records beyond the newest `keep`; return how many."""
        due = "SELECT id FROM audits ORDER BY id LIMIT max(0, min(?, (SELECT count(*) FROM audits) - ?))"
        return await self._database.write(removing("audits", "id", due, (limit, keep), dry=dry))
