"""Statistics in SQLite: an hour of a key is a row, and what was added moves in one transaction with the reader's position.

A crash leaves both or neither. A call whose outcome was not heard is repeated under its number: the step that stands beside the
counters says whether it was made.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from companion.core.errors import Fenced
from companion.core.stats import Calendar, Increments, Slot, Stat, stats
from companion.stores.embedded.database import Database

_ADD: Final = (
    "INSERT INTO stats VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (owner, key, flag, year, month, day, hour) DO UPDATE SET value = value + excluded.value"
)
_COLUMNS: Final = {
    Calendar.DAILY: "year, month, day, hour",
    Calendar.MONTHLY: "year, month, day, 0",
    Calendar.YEARLY: "year, month, 1, 0",
}


class EmbeddedStatistics:
    """The port `Statistics`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, fence: int) -> Mapping[str, str]:
        """Begin, and return the position of every reader."""

        def job(connection: sqlite3.Connection) -> Mapping[str, str]:
            claimed = connection.execute(
                "UPDATE stats_observer SET fence = ?, step = 0 WHERE fence < ?", (fence, fence)
            ).rowcount
            if not claimed:
                raise Fenced(f"statistics: fence {fence} is not the newest")
            return _positions(connection)

        return await self._database.write(job)

    async def apply(self, fence: int, step: int, reader: str, position: str, added: Increments) -> int:
        """Add to the counters and move the reader there, once; nothing waits to be flushed."""
        rows = [(*slot, amount) for slot, amount in added.items()]

        def job(connection: sqlite3.Connection) -> int:
            if _begin(connection, fence, step):
                connection.executemany(_ADD, rows)
                connection.execute("INSERT OR REPLACE INTO stats_readers VALUES (?, ?)", (reader, position))
            return 0

        return await self._database.write(job)

    async def flush(self, fence: int, step: int) -> int:
        """Nothing to bring anywhere."""

        def job(connection: sqlite3.Connection) -> int:
            _begin(connection, fence, step)
            return 0

        return await self._database.write(job)

    async def positions(self) -> Mapping[str, str]:
        """Return how far each reader has come."""
        return await self._database.read(_positions)

    async def read(
        self,
        owner: str,
        calendar: Calendar,
        first: dt.date,
        last: dt.date,
        *,
        key: str | None = None,
        flag: str | None = None,
    ) -> Sequence[Stat]:
        """Return the records that touch these days, in the order of key, flag and time."""
        columns = _COLUMNS[calendar]
        since, until = _whole(calendar, first, last)
        query = (
            f"SELECT owner, key, flag, {columns}, sum(value) FROM stats WHERE owner = ?"
            " AND key = ifnull(?, key) AND flag = ifnull(?, flag)"
            " AND (year, month, day) >= (?, ?, ?) AND (year, month, day) <= (?, ?, ?)"
            f" GROUP BY key, flag, {columns.removesuffix(', 0').removesuffix(', 1')}"
        )
        values = (owner, key, flag, *since, *until)

        def job(connection: sqlite3.Connection) -> Increments:
            return {Slot(*row[:-1]): row[-1] for row in connection.execute(query, values)}

        return stats(await self._database.read(job), calendar)


def _begin(connection: sqlite3.Connection, fence: int, step: int) -> bool:
    """Note that this step is made; False when it was made before. Raises `Fenced` for one that is not the next."""
    last_fence, last_step = connection.execute("SELECT fence, step FROM stats_observer").fetchone()
    if (last_fence, last_step) == (fence, step):
        return False
    if (last_fence, last_step) != (fence, step - 1):
        raise Fenced(
            f"statistics: after step {last_step} of fence {last_fence}, step {step} of {fence} is not the next"
        )
    connection.execute("UPDATE stats_observer SET step = ?", (step,))
    return True


def _positions(connection: sqlite3.Connection) -> Mapping[str, str]:
    return dict(connection.execute("SELECT name, position FROM stats_readers"))


def _whole(calendar: Calendar, first: dt.date, last: dt.date) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the first and the last day of all records that touch these days."""
    if calendar is Calendar.DAILY:
        return (first.year, first.month, first.day), (last.year, last.month, last.day)
    if calendar is Calendar.MONTHLY:
        return (first.year, first.month, 1), (last.year, last.month, 31)
    return (first.year, 1, 1), (last.year, 12, 31)
