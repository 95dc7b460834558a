"""The embedded profile as one store."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Self

from companion.stores.embedded.accounts import EmbeddedAccounts
from companion.stores.embedded.database import Database
from companion.stores.embedded.inbox import EmbeddedInbox
from companion.stores.embedded.records import EmbeddedAudits, EmbeddedCheckpoints, EmbeddedGenerations
from companion.stores.embedded.rules import EmbeddedRules
from companion.stores.embedded.sessions import EmbeddedSessions

FILE_NAME: Final = "companion.sqlite3"


class EmbeddedStore:
    """The port `Store` over one SQLite file in a data folder."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.accounts = EmbeddedAccounts(database)
        self.rules = EmbeddedRules(database)
        self.sessions = EmbeddedSessions(database)
        self.generations = EmbeddedGenerations(database)
        self.inbox = EmbeddedInbox(database)
        self.checkpoints = EmbeddedCheckpoints(database)
        self.audits = EmbeddedAudits(database)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, data_dir: Path) -> AsyncIterator[Self]:
        """Open the store of this folder; the folder, the file and the schema are made where they are missing."""
        async with Database(data_dir / FILE_NAME) as database:
            yield cls(database)

    async def ping(self) -> None:
        """Raise `Transient` or `Permanent` when the file cannot be read."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("SELECT value FROM generation").fetchone()

        await self._database.read(job)
