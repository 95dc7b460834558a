"""What happened, durably: every change with a number, and the documents as they were last seen.

The engine tells what it changed only in memory. What a killed process did not write down is found at the next start, by comparing
the engine's documents with those that the log has seen.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bson
from bson import Binary, Timestamp

Document = dict[str, Any]

_TABLES = """
CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY AUTOINCREMENT, seconds INTEGER NOT NULL, event BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS images (db TEXT, collection TEXT, key BLOB, document BLOB, PRIMARY KEY (db, collection, key));
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One change. `event` is as a change stream shows it, with the images of before and after."""

    number: int
    seconds: int
    event: Document

    @property
    def token(self) -> Document:
        """The resume token."""
        return token(self.seconds, self.number)


def token(seconds: int, number: int) -> Document:
    """Return the resume token of a place in the log, in capitals of hexadecimal as MongoDB's are."""
    return {"_data": f"82{seconds:08X}{number:08X}2B0229296E04"}


def number_of(resume: Mapping[str, Any]) -> int:
    """Return the place that a token stands for; raise ValueError for what is none."""
    text = resume["_data"]
    if not isinstance(text, str) or len(text) != 30 or not text.startswith("82"):
        raise ValueError(text)
    return int(text[10:18], 16)


class Oplog:
    """The log in a file of its own."""

    def __init__(self, file: Path) -> None:
        self.tell: Callable[[], None] = lambda: None
        """Called when there is something new."""
        self._rows = sqlite3.connect(file, isolation_level=None)
        # The kernel keeps what a killed process has written: there is nothing to wait for.
        self._rows.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; {_TABLES}")

    def close(self) -> None:
        """Let go of the file."""
        self._rows.close()

    @property
    def last(self) -> tuple[int, int]:
        """The second and the number of the newest entry, also if it is forgotten."""
        row = self._rows.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
        newest = self._rows.execute("SELECT seconds FROM entries ORDER BY number DESC LIMIT 1").fetchone()
        return max(int(time.time()), newest[0] if newest else 0), row[0] if row else 0

    @property
    def first(self) -> int:
        """The number of the oldest entry that is kept (that of the next one when none is)."""
        row = self._rows.execute("SELECT min(number) FROM entries").fetchone()
        return int(row[0]) if row[0] is not None else self.last[1] + 1

    def forget(self) -> None:
        """Forget everything, as a log that is too small does."""
        self._rows.execute("DELETE FROM entries")

    def behind(self, number: int, limit: int) -> list[Entry]:
        """Return what came after this number."""
        rows = self._rows.execute("SELECT * FROM entries WHERE number > ? ORDER BY number LIMIT ?", (number, limit))
        return [Entry(found, seconds, bson.decode(event)) for found, seconds, event in rows]

    def before(self, seconds: int, increment: int) -> int:
        """Return the number of the last entry before this time."""
        row = self._rows.execute(
            "SELECT max(number) FROM entries WHERE seconds < ? OR (seconds = ? AND number < ?)",
            (seconds, seconds, increment),
        ).fetchone()
        return int(row[0]) if row[0] is not None else self.first - 1

    def write(self, kind: str, db: str, collection: str, key: Document | None, after: Document | None) -> None:
        """Append one change and remember the document."""
        if key is None:
            self._append({"operationType": kind, "ns": {"db": db, **({"coll": collection} if collection else {})}})
            where = (db, collection) if collection else (db,)
            and_collection = " AND collection = ?" if collection else ""
            self._rows.execute(f"DELETE FROM images WHERE db = ?{and_collection}", where)  # noqa: S608 - no text of others
            return
        place = (db, collection, bson.encode(key))
        row = self._rows.execute("SELECT document FROM images WHERE db = ? AND collection = ? AND key = ?", place)
        found = row.fetchone()
        before = bson.decode(found[0]) if found else None
        if kind == "update" and before == after:
            return
        event: Document = {"operationType": kind, "ns": {"db": db, "coll": collection}, "documentKey": key}
        if before is not None:
            event["fullDocumentBeforeChange"] = before
        if after is not None:
            event["fullDocument"] = after
        if kind == "update" and after is not None:
            updated, removed = _difference(before or {}, after)
            event["updateDescription"] = {"updatedFields": updated, "removedFields": removed, "truncatedArrays": []}
        self._rows.execute("BEGIN")
        self._append(event)
        if after is None:
            self._rows.execute("DELETE FROM images WHERE db = ? AND collection = ? AND key = ?", place)
        else:
            self._rows.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", (*place, bson.encode(after)))
        self._rows.execute("COMMIT")

    def _append(self, event: Document) -> None:
        seconds, _ = self.last
        self._rows.execute("INSERT INTO entries (seconds, event) VALUES (?, ?)", (seconds, bson.encode(event)))
        self.tell()

    def current(self, db: str, collection: str, key: Document) -> Document | None:
        """Return the document as it is now."""
        row = self._rows.execute(
            "SELECT document FROM images WHERE db = ? AND collection = ? AND key = ?",
            (db, collection, bson.encode(key)),
        ).fetchone()
        return bson.decode(row[0]) if row else None

    def seen(self) -> Iterator[tuple[str, str, Document]]:
        """Yield database, collection and key of every document that was seen last."""
        for db, collection, key in self._rows.execute("SELECT db, collection, key FROM images").fetchall():
            yield db, collection, bson.decode(key)


def shown(entry: Entry) -> Document:
    """Return the parts that every event has."""
    return {
        "_id": entry.token,
        **entry.event,
        "clusterTime": Timestamp(entry.seconds, entry.number),
        "wallTime": bson.datetime_ms.DatetimeMS(entry.seconds * 1000),
    }


def _difference(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> tuple[Document, list[str]]:
    updated: Document = {}
    removed = [path + name for name in before if name not in after]
    for name, value in after.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            more, less = _difference(old, value, f"{path}{name}.")
            updated |= more
            removed += less
        elif name not in before or old != value or type(old) is not type(value):
            updated[path + name] = value
    return updated, removed


INVALID_TEXT = "\x7fNOT UTF-8\x7f"
"""Becomes bytes that are no text on its way out, which no driver would have stored."""


def spoil(message: bytes) -> bytes:
    """Put bytes that are no text where `INVALID_TEXT` stands."""
    return message.replace(INVALID_TEXT.encode(), b"\xff\xfeT UTF-8\xff\xff\xff"[: len(INVALID_TEXT)])


__all__ = ["INVALID_TEXT", "Binary", "Entry", "Oplog", "number_of", "shown", "spoil", "token"]
