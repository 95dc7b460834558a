"""Lock-outs in SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Final

from companion.core.lockouts import Growth, Lockout, Target
from companion.stores.embedded.database import Database

_COLUMNS: Final = "key, username, address, until, times, number"
_NEXT: Final = "SELECT coalesce(max(number), 0) + 1 FROM lockouts"
# The newest stays, whatever its age: the next number has to be higher.
_FORGET: Final = "DELETE FROM lockouts WHERE forgotten_at < ? AND number < (SELECT max(number) FROM lockouts)"


class EmbeddedLockouts:
    """The port `Lockouts`."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    async def lock(self, target: Target, growth: Growth) -> Lockout:
        """Lock it out, for longer than the last time; return the lock-out there is when it is locked out already."""

        def job(connection: sqlite3.Connection) -> Lockout:
            now = self._now()
            connection.execute(_FORGET, (int(now * 1000),))
            remembered = f"SELECT {_COLUMNS} FROM lockouts WHERE key = ? AND forgotten_at >= ?"
            known = connection.execute(remembered, (target.key, int(now * 1000))).fetchone()
            before = _lockout(known) if known else None
            (number,) = connection.execute(_NEXT).fetchone()
            lockout = growth.next(target, before, now, number)
            if lockout is not before:
                forgotten_at = lockout.until + int(growth.memory * 1000)
                names = (_text(target.username), _text(target.address))
                connection.execute(
                    f"INSERT OR REPLACE INTO lockouts ({_COLUMNS}, forgotten_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (target.key, *names, lockout.until, lockout.times, number, forgotten_at),
                )
            return lockout

        return await self._database.write(job)

    async def after(self, number: int, limit: int) -> Sequence[Lockout]:
        """Return up to `limit` that were made or lifted behind this number, in order."""

        def job(connection: sqlite3.Connection) -> Sequence[Lockout]:
            query = f"SELECT {_COLUMNS} FROM lockouts WHERE number > ? ORDER BY number LIMIT ?"
            return [_lockout(row) for row in connection.execute(query, (number, limit))]

        return await self._database.read(job)

    async def active(self, limit: int) -> Sequence[Lockout]:
        """Return up to `limit` that hold now, newest first."""

        def job(connection: sqlite3.Connection) -> Sequence[Lockout]:
            query = f"SELECT {_COLUMNS} FROM lockouts WHERE until > ? ORDER BY number DESC LIMIT ?"
            return [_lockout(row) for row in connection.execute(query, (int(self._now() * 1000), limit))]

        return await self._database.read(job)

    async def lift(self, key: str) -> bool:
        """End it and forget how often it was; False where there is none that holds."""

        def job(connection: sqlite3.Connection) -> bool:
            cursor = connection.execute(
                f"UPDATE lockouts SET until = 0, times = 0, number = ({_NEXT}) WHERE key = ? AND until > ?",
                (key, int(self._now() * 1000)),
            )
            return cursor.rowcount == 1

        return await self._database.write(job)


def _text(name: str) -> str:
    """Return what SQLite can hold; the key, not the name, tells targets apart."""
    return name.encode(errors="replace").decode()


def _lockout(row: tuple[str, str, str, int, int, int]) -> Lockout:
    key, username, address, until, times, number = row
    return Lockout(Target(key, username, address), until, times, number)
