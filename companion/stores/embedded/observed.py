"""The inbox as it is counted: every change that it has taken, also those that are published or dead."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import Final

from companion.core.ports import Received, Seen
from companion.core.stats import Counting
from companion.stores.embedded.database import Database
from companion.stores.embedded.inbox import taken

INBOX: Final = "inbox"
_IDLE_SECONDS: Final = 0.5


class InboxObserved:
    """The port `Observed` over the inbox; positions are numbers in decimal, which grow in the order of the commits."""

    name = INBOX
    lost = 0

    def __init__(self, database: Database, counting: Counting) -> None:
        self._database = database
        self._counting = counting
        self._read = 0

    async def open(self, position: str | None) -> str | None:
        """Go behind this position; without one, count all that the inbox still has."""
        self._read = int(position or 0)
        return None

    async def read(self, limit: int) -> Sequence[Seen]:
        """Return what follows; with nothing new, wait a moment."""

        def job(connection: sqlite3.Connection) -> Sequence[Received]:
            return taken(connection, self._read, limit)

        received = await self._database.read(job)
        if received:
            self._read = received[-1].position
        else:
            await asyncio.sleep(_IDLE_SECONDS)
        return [Seen(str(one.position), self._counting.fact(one.change)) for one in received]

    async def settled(self, position: str) -> None:
        """Housekeeping removes changes when their time has come."""

    async def close(self) -> None:
        """Nothing is held."""
