"""The service's own record, read from its file as another process may."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from companion.stores.embedded.store import FILE_NAME
from publishers.inbox_source import CHECKPOINT
from tests.faults.ledger import Record


class Books:
    """Opens the file for every question and closes it again: recovery after a crash stays the service's own business."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME

    @contextlib.contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection; whoever writes does so to sabotage the service."""
        with contextlib.closing(sqlite3.connect(self._path, timeout=10, isolation_level=None)) as connection:
            yield connection

    def settled(self) -> int:
        """Return how many changes are acknowledged or dead."""
        with self.open() as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM inbox WHERE acknowledged_at IS NOT NULL OR dead IS NOT NULL"
            ).fetchone()
        return int(count)

    def first_unsettled(self) -> int | None:
        """Return the lowest position that is neither acknowledged nor dead."""
        with self.open() as connection:
            (position,) = connection.execute(
                "SELECT min(position) FROM inbox WHERE acknowledged_at IS NULL AND dead IS NULL"
            ).fetchone()
        return None if position is None else int(position)

    def last_settled(self) -> int:
        """Return the highest position that is acknowledged or dead."""
        with self.open() as connection:
            (position,) = connection.execute(
                "SELECT max(position) FROM inbox WHERE acknowledged_at IS NOT NULL OR dead IS NOT NULL"
            ).fetchone()
        return int(position)

    def records(self) -> Mapping[str, Record]:
        """Return what is noted, by event id."""
        with self.open() as connection:
            rows = connection.execute("SELECT event_id, position, acknowledged_at, dead FROM inbox").fetchall()
        return {event_id: Record(position, acknowledged_at, dead) for event_id, position, acknowledged_at, dead in rows}

    def checkpoint(self) -> int:
        """Return the position up to which the publisher says that everything is done."""
        with self.open() as connection:
            row = connection.execute("SELECT position FROM checkpoints WHERE name = ?", (CHECKPOINT,)).fetchone()
        return int(row[0]) if row and row[0] else 0
