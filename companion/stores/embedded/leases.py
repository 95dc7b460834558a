"""Leases in SQLite, for the processes of one machine; measured by its clock."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from companion.core.ports import Held, Lease
from companion.stores.embedded.database import Database


class EmbeddedLeases:
    """The port `Leases`."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    async def acquire(self, name: str, holder: str, seconds: float) -> Lease | Held:
        """Take the lease if it is free, has run out or is ours already; else tell who has it, and for how long."""

        def job(connection: sqlite3.Connection) -> Lease | Held:
            now = self._now()
            row = connection.execute("SELECT holder, token, until FROM leases WHERE name = ?", (name,)).fetchone()
            last = 0
            if row is not None:
                other, last, until = row
                if until > now and other != holder:
                    return Held(other, until - now)
            token = max(last + 1, int(now * 1000))
            connection.execute(
                "INSERT OR REPLACE INTO leases (name, holder, token, until) VALUES (?, ?, ?, ?)",
                (name, holder, token, now + seconds),
            )
            return Lease(name, holder, token)

        return await self._database.write(job)

    async def renew(self, lease: Lease, seconds: float) -> bool:
        """Extend it to `seconds` from now; False when it has run out or was taken."""

        def job(connection: sqlite3.Connection) -> bool:
            now = self._now()
            cursor = connection.execute(
                "UPDATE leases SET until = ? WHERE name = ? AND token = ? AND until > ?",
                (now + seconds, lease.name, lease.token, now),
            )
            return cursor.rowcount == 1

        return await self._database.write(job)

    async def release(self, lease: Lease) -> None:
        """Give it back; the token stays known."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE leases SET until = 0 WHERE name = ? AND token = ?", (lease.name, lease.token))

        await self._database.write(job)
