"""The service's own record, read from its stores as another process may."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from companion.stores.embedded.store import FILE_NAME
from publishers.inbox_source import CHECKPOINT
from tests.faults.ledger import Record
from tests.faults.workload import Planned


@dataclass(frozen=True, slots=True)
class Mark:
    """How far one source of changes is done: positions of what it holds, 0 for "before everything"."""

    checkpoint: int
    last_settled: int
    first_unsettled: int | None


class Books(Protocol):
    """What the fault tests ask of the stores of a profile. A change is settled when it is acknowledged or dead."""

    async def ready(self) -> None:
        """Return when every change from now on will be told."""
        ...

    async def settled(self) -> int | None:
        """Return how many changes are settled, None while nobody can tell."""
        ...

    async def marks(self) -> Sequence[Mark]:
        """Return how far each source is done."""
        ...

    async def records(self) -> Mapping[str, Record]:
        """Return what is noted, by event id."""
        ...

    async def named(self, written: Sequence[Planned]) -> Sequence[Planned]:
        """Return changes that were written to MongoDB with the event ids that they have got there."""
        ...

    async def skip(self, count: int) -> None:
        """Sabotage: take changes of the inbox that nobody has got for acknowledged.

        None of them is the next one of its entity: that may be on its way to the broker.
        """
        ...


class EmbeddedBooks:
    """The port `Books` over the file of the embedded store.

    Opens the file for every question and closes it again: recovery after a crash stays the service's own business.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=10, isolation_level=None)) as connection:
            yield connection

    async def ready(self) -> None:
        """Return at once: what is posted is kept."""

    async def settled(self) -> int:
        """Return how many changes are settled."""
        with self._open() as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM inbox WHERE acknowledged_at IS NOT NULL OR dead IS NOT NULL"
            ).fetchone()
        return int(count)

    async def marks(self) -> Sequence[Mark]:
        """Return how far the inbox is done."""
        with self._open() as connection:
            (last,) = connection.execute(
                "SELECT max(position) FROM inbox WHERE acknowledged_at IS NOT NULL OR dead IS NOT NULL"
            ).fetchone()
            (first,) = connection.execute(
                "SELECT min(position) FROM inbox WHERE acknowledged_at IS NULL AND dead IS NULL"
            ).fetchone()
            row = connection.execute("SELECT position FROM checkpoints WHERE name = ?", (CHECKPOINT,)).fetchone()
        return (Mark(int(row[0]) if row and row[0] else 0, last or 0, first),)

    async def records(self) -> Mapping[str, Record]:
        """Return what is noted, by event id."""
        with self._open() as connection:
            rows = connection.execute("SELECT event_id, acknowledged_at, dead FROM inbox").fetchall()
        return {event_id: Record(acknowledged_at, dead) for event_id, acknowledged_at, dead in rows}

    async def named(self, written: Sequence[Planned]) -> Sequence[Planned]:
        """Return nothing: there is no MongoDB."""
        assert not written
        return ()

    async def skip(self, count: int) -> None:
        """Note changes as acknowledged that were never published."""
        with self._open() as connection:
            skipped = connection.execute(
                "UPDATE inbox SET acknowledged_at = ? WHERE position IN ("
                " SELECT position FROM inbox AS later WHERE acknowledged_at IS NULL AND EXISTS ("
                " SELECT 1 FROM inbox WHERE entity = later.entity AND position < later.position AND acknowledged_at IS NULL)"
                " ORDER BY position DESC LIMIT ?)",
                (int(time.time() * 1000), count),
            ).rowcount
        assert skipped == count
