"""Audit records in SQLite, in their chains."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from companion.core.chain import Chain, Entry, pseudonymous
from companion.core.model import Audit
from companion.core.ports.audits import REFUSING, ChainState
from companion.core.seals import Seal, Segment
from companion.stores.embedded.database import Database, removing

_AUDIT_FIELDS: Final = Audit._fields
_AUDIT_COLUMNS: Final = ", ".join(_AUDIT_FIELDS)
_COLUMNS: Final = f"{_AUDIT_COLUMNS}, chain, number, salt, marks, previous, hash"
_MARKS: Final = ", ".join("?" * (len(_AUDIT_FIELDS) + 6))
_AUDITS_A_STATEMENT: Final = 500
_SEAL: Final = "number, at, run, previous, root, segments"


def recorded(connection: sqlite3.Connection, after: int, limit: int) -> Sequence[tuple[int, Audit]]:
    """Return up to `limit` records with a number behind `after`, each with its own."""
    query = f"SELECT id, {_AUDIT_COLUMNS} FROM audits WHERE id > ? ORDER BY id LIMIT ?"
    return [(row[0], Audit(*row[1:])) for row in connection.execute(query, (after, limit))]


class EmbeddedAudits:
    """The port `Audits`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, records: Sequence[Audit]) -> None:
        """Store them, in order, as a chain of their own."""
        await self.keep(Chain().seal(records))

    async def keep(self, entries: Sequence[Entry]) -> None:
        """Store the entries of a writer's chain, in order; those that are there already are not stored twice."""
        rows = [(*one.audit, *one[1:7]) for one in entries]

        def job(connection: sqlite3.Connection) -> None:
            # Many records a statement: between two statements this thread and the event loop contend for the interpreter's lock.
            for start in range(0, len(rows), _AUDITS_A_STATEMENT):
                some = rows[start : start + _AUDITS_A_STATEMENT]
                marks = ", ".join([f"({_MARKS})"] * len(some))
                values = list(chain.from_iterable(some))
                connection.execute(f"INSERT INTO audits ({_COLUMNS}) VALUES {marks} ON CONFLICT DO NOTHING", values)

        await self._database.write(job)

    async def latest(self, limit: int) -> Sequence[Audit]:
        """Return the newest records, newest first."""
        return await self._audits("ORDER BY id DESC LIMIT ?", (limit,))

    async def refused(self, since: int, limit: int) -> Sequence[Audit]:
        """Return up to `limit` records of `REFUSING` kinds that say deny, from `since` on, the newest first."""
        kinds = ", ".join("?" * len(REFUSING))
        where = f"WHERE at >= ? AND verdict = 'deny' AND kind IN ({kinds}) ORDER BY at DESC, id DESC LIMIT ?"
        return await self._audits(where, (since, *REFUSING, limit))

    async def extent(self) -> tuple[int, int]:
        """Return how many records there are, and the time of the oldest."""

        def job(connection: sqlite3.Connection) -> tuple[int, int]:
            count, oldest = connection.execute("SELECT count(*), ifnull(min(at), 0) FROM audits").fetchone()
            return int(count), int(oldest)

        return await self._database.read(job)

    async def chains(self, after: str, limit: int) -> Sequence[ChainState]:
        """Return up to `limit` chains whose names lie behind `after`, in the order of their names."""
        query = (
            "SELECT chain, min(number), max(number), count(*) FROM audits WHERE chain > ? AND chain != ''"
            " GROUP BY chain ORDER BY chain LIMIT ?"
        )

        def job(connection: sqlite3.Connection) -> Sequence[ChainState]:
            return [ChainState(*row) for row in connection.execute(query, (after, limit))]

        return await self._database.read(job)

    async def entries(self, chain: str, after: int, limit: int) -> Sequence[Entry]:
        """Return up to `limit` entries of a chain behind this number, in order."""
        query = (
            f"SELECT id, chain, number, salt, marks, previous, hash, {_AUDIT_COLUMNS} FROM audits"
            " WHERE chain = ? AND chain != '' AND number > ? ORDER BY number LIMIT ?"
        )

        def job(connection: sqlite3.Connection) -> Sequence[Entry]:
            rows = connection.execute(query, (chain, after, limit))
            return [_entry(row) for row in rows]

        return await self._database.read(job)

    async def unchained(self, since: int) -> int:
        """Return how many records of this time or later are in no chain."""
        query = "SELECT count(*) FROM audits WHERE at >= ? AND chain = ''"
        return await self._database.read(lambda connection: int(connection.execute(query, (since,)).fetchone()[0]))

    async def forget_salts(self, limit: int) -> int:
        """Take the salts from up to `limit` records that were pseudonymised; return how many."""

        def job(connection: sqlite3.Connection) -> int:
            found = connection.execute(
                "SELECT id, username FROM audits WHERE (username GLOB 'anon-*' OR username GLOB 'ffffffff*') AND salt != ''"
            )
            ids = [(row[0],) for row in found if pseudonymous(row[1])][:limit]
            return connection.executemany("UPDATE audits SET salt = '' WHERE id = ?", ids).rowcount if ids else 0

        return await self._database.write(job)

    async def seals(self, after: int, limit: int) -> Sequence[Seal]:
        """Return up to `limit` seals behind this number, in order."""
        return await self._seals("WHERE number > ? ORDER BY number LIMIT ?", (after, limit))

    async def last_seal(self) -> Seal | None:
        """Return the newest seal."""
        return next(iter(await self._seals("ORDER BY number DESC LIMIT 1", ())), None)

    async def add_seal(self, seal: Seal) -> bool:
        """Store a seal; False when there is one of its number."""
        segments = json.dumps([list(one) for one in seal.segments])
        row = (seal.number, seal.at, seal.run, seal.previous, seal.root, segments)
        query = f"INSERT INTO audit_seals ({_SEAL}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
        return await self._database.write(lambda connection: connection.execute(query, row).rowcount == 1)

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` records older than `before` (Unix milliseconds); return how many."""
        due = "SELECT id FROM audits WHERE at < ? ORDER BY at LIMIT ?"
        return await self._database.write(removing("audits", "id", due, (before, limit), dry=dry))

    async def trim(self, keep: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` of the oldest records beyond the newest `keep`; return how many."""
        due = "SELECT id FROM audits ORDER BY id LIMIT max(0, min(?, (SELECT count(*) FROM audits) - ?))"
        return await self._database.write(removing("audits", "id", due, (limit, keep), dry=dry))

    async def _audits(self, where: str, values: Sequence[Any]) -> Sequence[Audit]:
        def job(connection: sqlite3.Connection) -> Sequence[Audit]:
            rows = connection.execute(f"SELECT {_AUDIT_COLUMNS} FROM audits {where}", values)
            return [Audit(*row) for row in rows]

        return await self._database.read(job)

    async def _seals(self, where: str, values: Sequence[Any]) -> Sequence[Seal]:
        def job(connection: sqlite3.Connection) -> Sequence[Seal]:
            return [_seal(row) for row in connection.execute(f"SELECT {_SEAL} FROM audit_seals {where}", values)]

        return await self._database.read(job)


def _entry(row: Sequence[Any]) -> Entry:
    number_of_row, chain, number, salt, marks, before, digest, *audit = row
    return Entry(str(number_of_row), chain, number, salt, marks, before, digest, Audit(*audit))


def _seal(row: Sequence[Any]) -> Seal:
    number, at, run, previous, root, segments = row
    return Seal(number, at, run, previous, tuple(Segment(*one) for one in json.loads(segments)), root)
