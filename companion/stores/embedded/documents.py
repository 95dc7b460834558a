"""What the embedded store keeps as rows, as collections of documents.

A document is the row as a JSON object, made by SQLite itself. Queries know the columns, by equality and `$in`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final

from companion.core.errors import Fenced, Invalid
from companion.core.model import Document
from companion.core.ports import Batch, Lease, Removed, Replaced, Replacement, Selection
from companion.stores.embedded.database import Database
from companion.stores.embedded.document_tables import Table, table_of

_IN: Final = "$in"


class EmbeddedDocuments:
    """The port `Documents` over the tables of `document_tables`; the names may bear any database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(self, collection: str, selection: Selection) -> None:
        """Raise `Invalid` for a collection that is none of ours, or for a selection that cannot be followed."""
        _due(table_of(collection), selection)

    async def count(self, collection: str) -> int:
        """Return how many there are."""
        table = table_of(collection)
        query = f"SELECT count(*) FROM {table.table} WHERE {table.only}"
        return await self._database.read(lambda connection: int(connection.execute(query).fetchone()[0]))

    async def count_due(self, collection: str, selection: Selection) -> int:
        """Return how many are due."""
        table = table_of(collection)
        where, values = _due(table, selection)
        query = f"SELECT count(*) FROM {table.table} WHERE {where}"
        return await self._database.read(lambda connection: int(connection.execute(query, values).fetchone()[0]))

    async def due(
        self, collection: str, selection: Selection, after: str, limit: int, *, lines: bool = True
    ) -> Batch | None:
        """Return up to `limit` that are due, in the order of their keys, behind `after`."""
        found = await self.due_batches(collection, selection, after, limit, 1, lines=lines)
        return found[0] if found else None

    async def due_batches(
        self, collection: str, selection: Selection, after: str, limit: int, batches: int, *, lines: bool = True
    ) -> Sequence[Batch]:
        """Return up to so many batches of these, one behind the other: the thread that reads need not wait between two."""
        table = table_of(collection)
        where, values = _due(table, selection)
        these = f"{table.table} WHERE {where} AND {table.key} > ?"
        query = _together(table.key, table.line if lines else "''", these, "LIMIT ?", table.mark)

        def job(connection: sqlite3.Connection) -> Sequence[Batch]:
            found: list[Batch] = []
            last = int(after or 0)
            while len(found) < batches:
                count, first, last, text, mark = connection.execute(query, (*values, last, limit)).fetchone()
                if not count:
                    break
                found.append(Batch(count, str(first), str(last), text if lines else b"", mark=str(mark)))
            return found

        return await self._database.scan(job)

    async def matching(
        self, collection: str, field: str, values: Sequence[str], *, hold: Document, after: str, limit: int
    ) -> Batch | None:
        """Return up to `limit` with one of these values, in the order of their keys, behind `after`."""
        table = table_of(collection)
        fits, of_query = _fits(table, {field: {_IN: list(values)}}, "field")
        holds, of_hold = _held(table, hold)
        where = " AND ".join([table.only, *fits, *holds, f"{table.key} > ?"])
        query = _together(table.key, table.line, f"{table.table} WHERE {where}", "LIMIT ?")

        def job(connection: sqlite3.Connection) -> Batch | None:
            bound = (*of_query, *of_hold, int(after or 0), limit)
            count, first, last, text, _ = connection.execute(query, bound).fetchone()
            return Batch(count, str(first), str(last), text) if count else None

        return await self._database.scan(job)

    def read(self, collection: str, lines: bytes) -> Batch:
        """Return the rows of these lines. The first and the last are looked at; the others when they are not as they were."""
        table, last = table_of(collection), lines.rfind(b"\n", 0, -1) + 1
        return Batch(
            lines.count(b"\n"), str(_key(table, lines[: lines.find(b"\n")])), str(_key(table, lines[last:])), lines
        )

    async def remove(
        self, collection: str, selection: Selection, batch: Batch, lease: Lease, *, unchanged: bool
    ) -> Removed:
        """Remove those that are still due and, if `unchanged`, still what they were, in one transaction with the fence."""
        table = table_of(collection)
        where, values = _due(table, selection)
        these = f"{table.table} WHERE {table.key} BETWEEN ? AND ? AND {where}"
        query, bounds = _together(table.key, table.line, these), (int(batch.first), int(batch.last), *values)

        def job(connection: sqlite3.Connection) -> Removed:
            _check_fence(connection, lease)
            if unchanged:
                text = connection.execute(query, bounds).fetchone()[3]
                if text != batch.lines:
                    return one_by_one(connection)
            # What is due between the first and the last are these and no others.
            return Removed(connection.execute(f"DELETE FROM {these}", bounds).rowcount)

        def one_by_one(connection: sqlite3.Connection) -> Removed:
            was = {_key(table, line): line for line in batch.lines.splitlines()}
            keys = json.dumps(list(was))
            found = connection.execute(
                f"SELECT {table.key}, {table.line} FROM {table.table} WHERE {table.key} IN (SELECT value FROM json_each(?))",
                (keys,),
            ).fetchall()
            same = [key for key, line in found if was[key] == line.encode()]
            count = connection.execute(
                f"DELETE FROM {table.table} WHERE {table.key} IN (SELECT value FROM json_each(?)) AND {where}",
                (json.dumps(same), *values),
            ).rowcount
            return Removed(count, len(found) - len(same))

        return await self._database.write(job)

    async def remove_as_read(self, collection: str, selection: Selection, batch: Batch, lease: Lease) -> Removed | None:
        """Remove those that are left of a batch, if nothing of the table was rewritten since, in one transaction with the fence."""
        table = table_of(collection)
        where, values = _due(table, selection)
        these = f"{table.table} WHERE {table.key} BETWEEN ? AND ? AND {where}"
        bounds = (int(batch.first), int(batch.last), *values)

        def job(connection: sqlite3.Connection) -> Removed | None:
            _check_fence(connection, lease)
            (mark,) = connection.execute(f"SELECT {table.mark}").fetchone()
            if not batch.mark or str(mark) != batch.mark:
                return None
            # What was due between the first and the last is all that can be there: no row is new, and none is another than it was.
            return Removed(connection.execute(f"DELETE FROM {these}", bounds).rowcount)

        return await self._database.write(job)

    async def replace(self, collection: str, replacements: Sequence[Replacement], lease: Lease) -> Replaced:
        """Replace those that are still what they were, in one transaction with the fence."""
        table = table_of(collection)
        rows = [(_key(table, one.was), one.was, _row(table, one.line)) for one in replacements]
        for (key, _, _), (_, line) in zip(rows, replacements, strict=True):
            if _key(table, line) != key:
                raise Invalid("line", line[:80], f"a row whose {table.key} is {key}")
        look = f"SELECT {table.line} FROM {table.table} WHERE {table.key} = ? AND {table.only}"
        columns = ", ".join(f"{column} = ?" for column in table.columns)
        update = f"UPDATE {table.table} SET {columns} WHERE {table.key} = ?"

        def job(connection: sqlite3.Connection) -> Replaced:
            _check_fence(connection, lease)
            count = changed = 0
            for key, was, values in rows:
                found = connection.execute(look, (key,)).fetchone()
                if found is not None and found[0].encode() == was:
                    count += connection.execute(update, (*values, key)).rowcount
                else:
                    changed += found is not None
            return Replaced(count, changed)

        return await self._database.write(job)

    async def restore(self, collection: str, lines: Sequence[bytes]) -> int:
        """Put back those whose keys are free."""
        table = table_of(collection)
        rows = [_row(table, line) for line in lines]
        marks = ", ".join("?" * len(table.columns))
        query = f"INSERT INTO {table.table} ({', '.join(table.columns)}) VALUES ({marks}) ON CONFLICT DO NOTHING"

        def job(connection: sqlite3.Connection) -> int:
            return connection.executemany(query, rows).rowcount

        return await self._database.write(job) if rows else 0


def _due(table: Table, selection: Selection) -> tuple[str, tuple[Any, ...]]:
    """Return the condition and its values."""
    if selection.time not in table.times:
        raise Invalid("time", selection.time, f"one of {', '.join(table.times)}")
    # The `+` keeps SQLite from its index on times: rows are gone through by their keys.
    where, values = [table.only, f"+{selection.time} < ?"], [selection.before * table.times[selection.time]]
    fits, of_query = _fits(table, selection.query, "query")
    where += fits
    held, of_hold = _held(table, selection.hold)
    return " AND ".join([*where, *held]), (*values, *of_query, *of_hold)


def _held(table: Table, hold: Document) -> tuple[list[str], list[Any]]:
    """Return the condition that spares what fits the filter, and its values."""
    held, values = _fits(table, hold, "hold")
    # What is NULL fits no filter.
    return [f"NOT ifnull({' AND '.join(held)}, 0)"] if held else [], values


def _check_fence(connection: sqlite3.Connection, lease: Lease) -> None:
    row = connection.execute("SELECT token FROM leases WHERE name = ?", (lease.name,)).fetchone()
    if row is None or row[0] > lease.token:
        raise Fenced(f"{lease.name}: fence {lease.token} is not the newest")


def _fits(table: Table, query: Document, what: str) -> tuple[list[str], list[Any]]:
    conditions: list[str] = []
    values: list[Any] = []
    for column, wanted in query.items():
        if column not in table.columns:
            raise Invalid(f"{what}.{column}", wanted, f"one of {', '.join(table.columns)}")
        allowed = wanted.get(_IN) if isinstance(wanted, Mapping) and set(wanted) == {_IN} else [wanted]
        if not isinstance(allowed, list) or not all(isinstance(one, str | int | float) for one in allowed):
            raise Invalid(
                f"{what}.{column}", wanted, "a text, a number, or {$in: [...]} of them (with the embedded store)"
            )
        conditions.append(f"{column} IN ({', '.join('?' * len(allowed))})")
        values += allowed
    return conditions, values


def _together(key: str, line: str, these: str, limit: str = "", mark: str = "''") -> str:
    """Return the query for rows as one: how many, the first and the last key, all lines with their ends (bytes), a mark.

    SQLite makes them in one step, in which it leaves the interpreter to others; row by row they take twice as long.
    """
    return (
        f"SELECT count(*), min(k), max(k), CAST(group_concat(l, char(10)) || char(10) AS BLOB), {mark}"
        f" FROM (SELECT {key} AS k, {line} AS l FROM {these} ORDER BY {key} {limit})"
    )


def _key(table: Table, line: bytes) -> int:
    """Return the key of a line: SQLite wrote it in the order of the columns, of which the key is the first."""
    start = f'{{"{table.key}":'.encode()
    key = line.removeprefix(start).partition(b",")[0]
    if not line.startswith(start) or not key.isdigit():
        raise Invalid("line", line[:80], f"a JSON object that begins with {start.decode()}")
    return int(key)


def _row(table: Table, line: bytes) -> tuple[Any, ...]:
    try:
        document = {**table.later, **json.loads(line)}
        return tuple(document[column] for column in table.columns)
    except (ValueError, TypeError, KeyError):
        raise Invalid("line", line[:80], f"a JSON object with {', '.join(table.columns)}") from None
