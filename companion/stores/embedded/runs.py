"""Runs of jobs in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, Final

from companion.core.errors import Fenced
from companion.core.runs import ENDED, Progress, Run, RunState, Trigger
from companion.stores.embedded.database import Database, removing

_COLUMNS: Final = (
    "id, job, trigger, requested_at, due_at, parameters, dry, priority, attempt, state, cancelling, holder, fence, started_at,"
    " beat_at, ended_at, batches, done, total, counts, position, error"
)
_MARKS: Final = ", ".join("?" * len(_COLUMNS.split(",")))
_ENDED: Final = tuple(state.value for state in ENDED)


class EmbeddedRuns:
    """The port `Runs`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, run: Run) -> bool:
        """Store a new one; False when there is one of this id."""
        row = _row(run)

        def job(connection: sqlite3.Connection) -> bool:
            query = f"INSERT INTO runs ({_COLUMNS}) VALUES ({_MARKS}) ON CONFLICT (id) DO NOTHING"
            return connection.execute(query, row).rowcount == 1

        return await self._database.write(job)

    async def get(self, run_id: str) -> Run | None:
        """Return the run; None when there is none."""
        return await self._database.read(lambda connection: _get(connection, run_id))

    async def list(
        self, *, jobs: Collection[str] | None = None, states: Collection[RunState] | None = None, limit: int = 100
    ) -> Sequence[Run]:
        """Return up to `limit` of these jobs and states, those requested last first."""
        conditions, values = ["1"], list[Any]()
        for column, wanted in (("job", jobs), ("state", states)):
            if wanted is not None:
                conditions.append(f"{column} IN ({', '.join('?' * len(wanted))})")
                values += wanted
        where = " AND ".join(conditions)

        def job(connection: sqlite3.Connection) -> Sequence[Run]:
            query = f"SELECT {_COLUMNS} FROM runs WHERE {where} ORDER BY requested_at DESC, number DESC LIMIT ?"
            return [_run(row) for row in connection.execute(query, (*values, limit))]

        return await self._database.read(job)

    async def waiting(self, jobs: Collection[str], now: int, limit: int = 100) -> Sequence[Run]:
        """Return up to `limit` waiting ones that are due, in the order in which they should run."""

        def job(connection: sqlite3.Connection) -> Sequence[Run]:
            query = (
                f"SELECT {_COLUMNS} FROM runs WHERE state = 'waiting' AND due_at <= ?"
                f" AND job IN ({', '.join('?' * len(jobs))}) ORDER BY priority DESC, due_at, number LIMIT ?"
            )
            return [_run(row) for row in connection.execute(query, (now, *jobs, limit))]

        return await self._database.read(job)

    async def begin(self, run_id: str, holder: str, fence: int, now: int) -> Run | None:
        """Let a waiting or running one run under this fence; None when it has ended."""

        def job(connection: sqlite3.Connection) -> Run | None:
            run = _get(connection, run_id)
            if run is None or run.ended:
                return None
            if run.fence > fence:
                raise _fenced(run_id, fence)
            connection.execute(
                "UPDATE runs SET state = 'running', holder = ?, fence = ?, started_at = ifnull(started_at, ?), beat_at = ?"
                " WHERE id = ?",
                (holder, fence, now, now, run_id),
            )
            return _get(connection, run_id)

        return await self._database.write(job)

    async def advance(self, run_id: str, fence: int, progress: Progress, batches: int, now: int) -> bool:
        """Note how far it has come; return whether it was asked to end."""

        def job(connection: sqlite3.Connection) -> bool:
            row = connection.execute(
                "UPDATE runs SET done = ?, total = ?, counts = ?, position = ?, batches = ?, beat_at = ?"
                " WHERE id = ? AND fence = ? AND state = 'running' RETURNING cancelling",
                (*_progress_row(progress), batches, now, run_id, fence),
            ).fetchone()
            if row is None:
                raise _fenced(run_id, fence)
            return bool(row[0])

        return await self._database.write(job)

    async def end(self, run_id: str, fence: int, state: RunState, error: str, now: int) -> None:
        """Note how it ended, or with WAITING that it goes on later."""
        ended_at = now if state in ENDED else None

        def job(connection: sqlite3.Connection) -> None:
            changed = connection.execute(
                "UPDATE runs SET state = ?, error = ?, ended_at = ?, beat_at = ? WHERE id = ? AND fence = ? AND state = 'running'",
                (state.value, error, ended_at, now, run_id, fence),
            ).rowcount
            if not changed:
                raise _fenced(run_id, fence)

        await self._database.write(job)

    async def cancel(self, run_id: str, now: int) -> Run | None:
        """End a waiting one, and ask a running one to end."""

        def job(connection: sqlite3.Connection) -> Run | None:
            connection.execute(
                "UPDATE runs SET cancelling = 1, ended_at = iif(state = 'waiting', ?, ended_at),"
                " state = iif(state = 'waiting', 'cancelled', state) WHERE id = ? AND state IN ('waiting', 'running')",
                (now, run_id),
            )
            return _get(connection, run_id)

        return await self._database.write(job)

    async def prune(self, *, keep: int, before: int, limit: int, dry: bool = False) -> int:
        """Remove up to `limit` that ended before `before`, but of each job not its `keep` newest."""
        marks = ", ".join("?" * len(_ENDED))
        ranked = (
            "SELECT number, ended_at, row_number() OVER (PARTITION BY job ORDER BY number DESC) AS rank FROM runs"
            f" WHERE state IN ({marks})"
        )
        due = f"SELECT number FROM ({ranked}) WHERE rank > ? AND ended_at < ? ORDER BY number LIMIT ?"
        return await self._database.write(removing("runs", "number", due, (*_ENDED, keep, before, limit), dry=dry))


def _fenced(run_id: str, fence: int) -> Fenced:
    return Fenced(f"run {run_id}: it is not running under the fence {fence}")


def _get(connection: sqlite3.Connection, run_id: str) -> Run | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM runs WHERE id = ?", (run_id,)).fetchone()
    return None if row is None else _run(row)


def _progress_row(progress: Progress) -> tuple[Any, ...]:
    return progress.done, progress.total, json.dumps(dict(progress.counts)), progress.position


def _row(run: Run) -> tuple[Any, ...]:
    return (
        run.id,
        run.job,
        run.trigger.value,
        run.requested_at,
        run.due_at,
        json.dumps(dict(run.parameters)),
        int(run.dry),
        run.priority,
        run.attempt,
        run.state.value,
        int(run.cancelling),
        run.holder,
        run.fence,
        run.started_at,
        run.beat_at,
        run.ended_at,
        run.batches,
        *_progress_row(run.progress),
        run.error,
    )


def _run(row: Sequence[Any]) -> Run:
    run_id, job, trigger, requested_at, due_at, parameters, dry, priority, attempt, state, cancelling = row[:11]
    holder, fence, started_at, beat_at, ended_at, batches, done, total, counts, position, error = row[11:]
    return Run(
        run_id,
        job,
        Trigger(trigger),
        requested_at,
        due_at,
        json.loads(parameters),
        bool(dry),
        priority,
        attempt,
        RunState(state),
        bool(cancelling),
        holder,
        fence,
        started_at,
        beat_at,
        ended_at,
        batches,
        Progress(done, total, json.loads(counts), position),
        error,
    )
