"""Revocations in SQLite. Triggers of the table move the number that notices go by, in the transaction of the change itself."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from companion.core.errors import Fenced
from companion.core.ports import Waiting
from companion.core.revocations import Cause, Done, Revocation, Standing, Step, Target
from companion.stores.embedded.database import Database, removing

_COLUMNS: Final = (
    "id, target, name, at, cause, reason, asked_by, until, ban_until, lifted_at, waiting, due_at, attempts, error, fence,"
    " steps"
)
_MARKS: Final = ", ".join("?" * (len(_COLUMNS.split(",")) + 1))
_STANDS: Final = "cause = 'revoked' AND lifted_at IS NULL AND (until IS NULL OR until > ?)"
_KEYS_A_QUERY: Final = 500


def insert_revocation(connection: sqlite3.Connection, revocation: Revocation) -> bool:
    """Store a new one in the transaction that is open; False when there is one of this id."""
    query = f"INSERT INTO revocations (key, {_COLUMNS}) VALUES ({_MARKS}) ON CONFLICT (id) DO NOTHING"
    return connection.execute(query, (revocation.key, *_row(revocation))).rowcount == 1


class EmbeddedRevocations:
    """The port `Revocations`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, revocation: Revocation) -> bool:
        """Store a new one durably; False when there is one of this id."""
        return await self._database.write(lambda connection: insert_revocation(connection, revocation))

    async def get(self, revocation_id: str) -> Revocation | None:
        """Return it; None when there is none."""
        return await self._database.read(lambda connection: _get(connection, revocation_id))

    async def list(self, *, waiting: bool | None = None, limit: int = 100) -> Sequence[Revocation]:
        """Return up to `limit`, newest first."""
        query = f"SELECT {_COLUMNS} FROM revocations WHERE ? IS NULL OR waiting = ? ORDER BY number DESC LIMIT ?"
        wanted = None if waiting is None else int(waiting)
        return await self._some(query, (wanted, wanted, limit))

    async def standing(self, now: int, *, after: str = "", limit: int = 1000) -> Sequence[Standing]:
        """Return up to `limit` because of which the hooks refuse (Unix seconds), those behind `after`."""
        query = f"SELECT id, key, until FROM revocations WHERE {_STANDS} AND id > ? ORDER BY id LIMIT ?"

        def job(connection: sqlite3.Connection) -> Sequence[Standing]:
            return [Standing(*row) for row in connection.execute(query, (now, after, limit))]

        return await self._database.read(job)

    async def of(self, keys: Sequence[str], now: int) -> Sequence[Standing]:
        """Return those because of which somebody with one of these keys is refused."""

        def job(connection: sqlite3.Connection) -> Sequence[Standing]:
            found: list[Standing] = []
            for start in range(0, len(keys), _KEYS_A_QUERY):
                some = keys[start : start + _KEYS_A_QUERY]
                marks = ", ".join("?" * len(some))
                query = f"SELECT id, key, until FROM revocations WHERE {_STANDS} AND key IN ({marks}) ORDER BY id"
                found += [Standing(*row) for row in connection.execute(query, (now, *some))]
            return found

        return await self._database.read(job)

    async def due(self, now: int, limit: int) -> Sequence[Revocation]:
        """Return up to `limit` that are due (Unix milliseconds)."""
        query = f"SELECT {_COLUMNS} FROM revocations WHERE waiting = 1 AND due_at <= ? ORDER BY due_at, number LIMIT ?"
        return await self._some(query, (now, limit))

    async def claim(self, revocation_id: str, fence: int) -> Revocation | None:
        """Return it as it stands, and refuse lower fences from now on."""

        def job(connection: sqlite3.Connection) -> Revocation | None:
            found = _get(connection, revocation_id)
            if found is None or not found.waiting:
                return None
            if found.fence > fence:
                raise _fenced(revocation_id, fence)
            connection.execute("UPDATE revocations SET fence = ? WHERE id = ?", (fence, revocation_id))
            return _get(connection, revocation_id)

        return await self._database.write(job)

    async def note(self, revocation: Revocation) -> Revocation:
        """Store how far it is under its fence, and return it as it then stands."""

        def job(connection: sqlite3.Connection) -> Revocation:
            found = _get(connection, revocation.id)
            if found is None or found.fence != revocation.fence:
                raise _fenced(revocation.id, revocation.fence)
            columns, values = "steps = ?", list[Any]([_steps_text(revocation.steps)])
            if found.lifted_at == revocation.lifted_at:
                columns += ", waiting = ?, due_at = ?, attempts = ?, error = ?"
                values += [int(revocation.waiting), revocation.due_at, revocation.attempts, revocation.error]
            connection.execute(f"UPDATE revocations SET {columns} WHERE id = ?", (*values, revocation.id))
            noted = _get(connection, revocation.id)
            assert noted is not None  # noqa: S101 - it was there a moment ago, in this transaction
            return noted

        return await self._database.write(job)

    async def lift(self, revocation_id: str, now: int) -> Revocation | None:
        """End it (Unix milliseconds) and return it, also one that was lifted before."""

        def job(connection: sqlite3.Connection) -> Revocation | None:
            connection.execute(
                "UPDATE revocations SET lifted_at = ?, waiting = 1, due_at = ?, attempts = 0, error = ''"
                " WHERE id = ? AND cause = 'revoked' AND lifted_at IS NULL",
                (now, now, revocation_id),
            )
            found = _get(connection, revocation_id)
            return found if found is not None and found.lifted_at is not None else None

        return await self._database.write(job)

    async def waiting(self) -> Waiting:
        """Return what is left to do."""

        def job(connection: sqlite3.Connection) -> Waiting:
            query = "SELECT count(*), min(ifnull(lifted_at, at)) FROM revocations WHERE waiting = 1"
            return Waiting(*connection.execute(query).fetchone())

        return await self._database.read(job)

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` older than `before` (Unix milliseconds) that neither stand nor wait; return how many."""
        due = (
            "SELECT number FROM revocations WHERE at < ? AND waiting = 0 AND (cause <> 'revoked' OR lifted_at IS NOT NULL"
            " OR until <= ? / 1000) ORDER BY number LIMIT ?"
        )
        return await self._database.write(removing("revocations", "number", due, (before, before, limit), dry=dry))

    async def _some(self, query: str, values: Sequence[Any]) -> Sequence[Revocation]:
        def job(connection: sqlite3.Connection) -> Sequence[Revocation]:
            return [_revocation(row) for row in connection.execute(query, values)]

        return await self._database.read(job)


def _fenced(revocation_id: str, fence: int) -> Fenced:
    return Fenced(f"revocation {revocation_id}: the fence {fence} is not the newest")


def _get(connection: sqlite3.Connection, revocation_id: str) -> Revocation | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM revocations WHERE id = ?", (revocation_id,)).fetchone()
    return None if row is None else _revocation(row)


def _steps_text(steps: Sequence[Done]) -> str:
    return json.dumps([[one.step.value, one.at, one.took, one.detail] for one in steps])


def _row(one: Revocation) -> tuple[Any, ...]:
    return (
        one.id,
        one.target.value,
        one.name,
        one.at,
        one.cause.value,
        one.reason,
        one.asked_by,
        one.until,
        one.ban_until,
        one.lifted_at,
        int(one.waiting),
        one.due_at,
        one.attempts,
        one.error,
        one.fence,
        _steps_text(one.steps),
    )


def _revocation(row: Sequence[Any]) -> Revocation:
    found_id, target, name, at, cause, reason, asked_by, until, ban_until, lifted_at = row[:10]
    waiting, due_at, attempts, error, fence, steps = row[10:]
    return Revocation(
        found_id,
        Target(target),
        name,
        at,
        Cause(cause),
        reason,
        asked_by,
        until,
        ban_until,
        lifted_at,
        bool(waiting),
        due_at,
        attempts,
        error,
        fence,
        tuple(Done(Step(step), done_at, took, detail) for step, done_at, took, detail in json.loads(steps)),
    )
