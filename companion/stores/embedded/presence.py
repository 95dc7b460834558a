"""Who is connected, and the broker's events, in SQLite: an event and what it changes are one transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.presence import Present, merged
from companion.stores.embedded.database import Database, removing

_COLUMNS: Final = tuple(column.name for column in fields(Present))
_row: Final = attrgetter(*_COLUMNS)
_PUT: Final = (
    f"INSERT INTO presence ({', '.join(_COLUMNS)}, online, changed_at) VALUES ({', '.join('?' * (len(_COLUMNS) + 2))})"
    f" ON CONFLICT (client_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS)},"
    " online = excluded.online, changed_at = excluded.changed_at"
)
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM presence"
_EVENT: Final = ("id", "kind", "at", "client_id", "username", "principal", "reason")
_event_row: Final = attrgetter(*_EVENT)


def told_events(connection: sqlite3.Connection, after: int, limit: int) -> Sequence[tuple[int, BrokerEvent]]:
    """Return up to `limit` events with a number behind `after`, each with its own; they hold what is counted."""
    query = (
        "SELECT number, id, kind, at, client_id, username, principal, reason FROM broker_events"
        " WHERE number > ? ORDER BY number LIMIT ?"
    )
    return [(number, _event(row)) for number, *row in connection.execute(query, (after, limit))]


class EmbeddedPresence:
    """The port `Presence`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, events: Sequence[BrokerEvent]) -> Sequence[str]:
        """Take events durably; return the ids of those that are new."""
        taken_at = int(time.time() * 1000)

        def job(connection: sqlite3.Connection) -> Sequence[str]:
            new = []
            for event in events:
                added = connection.execute(
                    "INSERT INTO broker_events (id, kind, at, client_id, username, principal, reason, taken_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                    (*_event_row(event), taken_at),
                ).rowcount
                if added:
                    new.append(event.id)
                found = connection.execute(f"{_SELECT} WHERE client_id = ?", (event.client_id,)).fetchone()
                after = merged(None if found is None else _present(found), event)
                if after is not None:
                    connection.execute(_PUT, (*_row(after), after.online, after.changed_at))
            return new

        return await self._database.write(job)

    async def list(
        self,
        *,
        principal: str | None = None,
        client_id: str | None = None,
        online: bool | None = None,
        after: str = "",
        limit: int = 100,
    ) -> Sequence[Present]:
        """Return up to `limit` in the order of their client ids, behind `after`."""
        wanted = (("principal", principal), ("client_id", client_id), ("online", online))
        conditions = ["client_id > ?", *(f"{name} = ?" for name, value in wanted if value is not None)]
        values = [after, *(value for _, value in wanted if value is not None), limit]
        query = f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY client_id LIMIT ?"
        return await self._read(query, values)

    async def untold(self, limit: int) -> Sequence[Present]:
        """Return up to `limit` whose revision the presence topic does not show yet."""
        return await self._read(f"{_SELECT} WHERE told = 0 LIMIT ?", (limit,))

    async def told(self, shown: Sequence[Present]) -> None:
        """Note that the presence topic shows these; those that have changed since stay untold."""
        rows = [(one.client_id, one.revision) for one in shown]

        def job(connection: sqlite3.Connection) -> None:
            connection.executemany("UPDATE presence SET told = 1 WHERE client_id = ? AND revision = ?", rows)

        await self._database.write(job)

    async def prune(self, before: int, through: int | None, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` events that were taken before `before` (Unix milliseconds); return how many."""
        due = "SELECT number FROM broker_events WHERE taken_at < ? AND number <= ifnull(?, number) ORDER BY number LIMIT ?"
        return await self._database.write(removing("broker_events", "number", due, (before, through, limit), dry=dry))

    async def _read(self, query: str, values: Sequence[Any]) -> Sequence[Present]:
        def job(connection: sqlite3.Connection) -> Sequence[Present]:
            return [_present(row) for row in connection.execute(query, values)]

        return await self._database.read(job)


def _present(row: Sequence[Any]) -> Present:
    values = dict(zip(_COLUMNS, row, strict=True))
    for name in ("clean_start", "seen", "told"):
        values[name] = None if values[name] is None else bool(values[name])
    return Present(**values)


def _event(row: Sequence[Any]) -> BrokerEvent:
    values = dict(zip(_EVENT, row, strict=True))
    return BrokerEvent(**values | {"kind": EventKind(values["kind"])})
