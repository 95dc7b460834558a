"""Word of what changed, in SQLite: a number that moves with every change of an account or a rule, looked at again and again."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from typing import Final

import structlog

from companion.core.errors import CompanionError
from companion.core.model import Notice, Scope
from companion.stores.embedded.database import Database

log = structlog.get_logger("companion.stores.embedded")

_EVERYTHING: Final = (Notice(Scope.EVERYTHING),)


class EmbeddedNotices:
    """The port `Notices`; triggers move the number in the transaction of the change itself. `poll` is in seconds."""

    def __init__(self, database: Database, poll: float) -> None:
        self._database = database
        self._poll = poll

    async def announce(self, notice: Notice) -> None:
        """Move the number: every follower lets go of everything, which covers any notice."""
        del notice

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE generation SET value = value + 1")

        await self._database.write(job)

    async def follow(self) -> AsyncIterator[Sequence[Notice]]:
        """Yield EVERYTHING whenever the number has moved."""
        seen = await self._patiently()
        yield ()
        while True:
            await asyncio.sleep(self._poll)
            generation = await self._patiently()
            if generation != seen:
                seen = generation
                yield _EVERYTHING

    async def _patiently(self) -> int:
        """Return the number, as soon as the file can be read; only the first failure in a row is logged."""
        away = False
        while True:
            try:
                return await self._database.read(_generation)
            except CompanionError as problem:
                if not away:
                    log.warning("store away", problem=str(problem))
                away = True
            await asyncio.sleep(self._poll)


def _generation(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT value FROM generation").fetchone()[0])
