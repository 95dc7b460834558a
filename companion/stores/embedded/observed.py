"""What is counted in SQLite: all that the inbox has taken, published or not, the audit records, and the broker's events.

All are numbered in the order of their commits, and no number comes twice.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from companion.core.ports import Observed, Seen
from companion.core.stats import Counting, Fact
from companion.core.stats_decisions import fact_of
from companion.core.stats_events import fact_of as fact_of_event
from companion.stores.embedded.audits import recorded
from companion.stores.embedded.database import Database
from companion.stores.embedded.inbox import taken
from companion.stores.embedded.presence import told_events

INBOX: Final = "inbox"
AUDITS: Final = "audits"
EVENTS: Final = "events"
_IDLE_SECONDS: Final = 0.5

Rows = Callable[[sqlite3.Connection, int, int], Sequence[tuple[int, Fact | None]]]
"""Returns up to so many facts behind a number, each with its own."""


class TableObserved:
    """The port `Observed` over a table; positions are numbers in decimal."""

    lost = 0

    def __init__(self, database: Database, name: str, rows: Rows) -> None:
        self.name = name
        self._database = database
        self._rows = rows
        self._read = 0

    async def open(self, position: str | None) -> str | None:
        """Go behind this position; without one, count all that is still there."""
        self._read = int(position or 0)
        return None

    async def read(self, limit: int) -> Sequence[Seen]:
        """Return what follows; with nothing new, wait a moment."""
        found = await self._database.read(lambda connection: self._rows(connection, self._read, limit))
        if found:
            self._read = found[-1][0]
        else:
            await asyncio.sleep(_IDLE_SECONDS)
        return [Seen(str(number), fact) for number, fact in found]

    async def settled(self, position: str) -> None:
        """Housekeeping removes changes, audit records and events when their time has come."""

    async def close(self) -> None:
        """Nothing is held."""


def observed(database: Database, counting: Counting) -> Sequence[Observed]:
    """Return what is counted by these rules."""

    def changes(connection: sqlite3.Connection, after: int, limit: int) -> Sequence[tuple[int, Fact]]:
        return [(one.position, counting.fact(one.change)) for one in taken(connection, after, limit)]

    def decisions(connection: sqlite3.Connection, after: int, limit: int) -> Sequence[tuple[int, Fact]]:
        return [(number, fact_of(audit)) for number, audit in recorded(connection, after, limit)]

    def events(connection: sqlite3.Connection, after: int, limit: int) -> Sequence[tuple[int, Fact | None]]:
        return [(number, fact_of_event(event)) for number, event in told_events(connection, after, limit)]

    found: list[Observed] = [TableObserved(database, INBOX, changes)]
    if counting.decisions:
        found.append(TableObserved(database, AUDITS, decisions))
    if counting.events:
        found.append(TableObserved(database, EVENTS, events))
    return found
