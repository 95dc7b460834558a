"""The embedded profile as one store."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from companion.core.errors import CompanionError
from companion.core.model import Lookup
from companion.core.ports import Mirror, Observed, Proofs, Source, Watcher
from companion.core.stats import Counting
from companion.stores.counters import LocalCounters
from companion.stores.embedded.account_changes import EmbeddedAccountChanges
from companion.stores.embedded.accounts import EmbeddedAccounts
from companion.stores.embedded.audits import EmbeddedAudits
from companion.stores.embedded.checkpoints import EmbeddedCheckpoints
from companion.stores.embedded.database import Database
from companion.stores.embedded.documents import EmbeddedDocuments
from companion.stores.embedded.inbox import EmbeddedInbox
from companion.stores.embedded.leases import EmbeddedLeases
from companion.stores.embedded.lockouts import EmbeddedLockouts
from companion.stores.embedded.notices import EmbeddedNotices
from companion.stores.embedded.observed import observed
from companion.stores.embedded.presence import EmbeddedPresence
from companion.stores.embedded.revocations import EmbeddedRevocations
from companion.stores.embedded.rules import EmbeddedRules
from companion.stores.embedded.runs import EmbeddedRuns
from companion.stores.embedded.sessions import EmbeddedSessions
from companion.stores.embedded.stats import EmbeddedStatistics
from companion.stores.embedded.tokens import EmbeddedTokens
from companion.stores.embedded.uses import EmbeddedUses

FILE_NAME: Final = "companion.sqlite3"
NAME: Final = "sqlite"
POLL_SECONDS: Final = 0.25


class EmbeddedStore:
    """The port `Store` over one SQLite file in a data folder."""

    hooks_need: Collection[str] = frozenset({NAME})

    def __init__(self, database: Database, poll: float = POLL_SECONDS) -> None:
        self._database = database
        self.accounts = EmbeddedAccounts(database)
        self.rules = EmbeddedRules(database)
        self.sessions = EmbeddedSessions(database)
        self.revocations = EmbeddedRevocations(database)
        self.account_changes = EmbeddedAccountChanges(database)
        self.tokens = EmbeddedTokens(database)
        self.uses = EmbeddedUses(database)
        self.notices = EmbeddedNotices(database, poll)
        self.counters = LocalCounters()
        self.lockouts = EmbeddedLockouts(database)
        self.proofs: Proofs | None = None
        self.leases = EmbeddedLeases(database)
        self.inbox = EmbeddedInbox(database)
        self.checkpoints = EmbeddedCheckpoints(database)
        self.sources: Sequence[Source] = ()
        self.audits = EmbeddedAudits(database)
        self.presence = EmbeddedPresence(database)
        self.runs = EmbeddedRuns(database)
        self.documents = EmbeddedDocuments(database)
        self.mirror: Mirror | None = None
        self.statistics = EmbeddedStatistics(database)
        self.watcher: Watcher | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, data_dir: Path, poll: float = POLL_SECONDS) -> AsyncIterator[Self]:
        """Open the store of this folder; the folder, the file and the schema are made where they are missing.

        Followers of its notices look every `poll` seconds.
        """
        async with Database(data_dir / FILE_NAME) as database:
            yield cls(database, poll)

    def observed(self, counting: Counting) -> Sequence[Observed]:
        """Return the inbox, to be counted, the audit records and the broker's events."""
        return observed(self._database, counting)

    def tell_lookups(self, told: Callable[[Lookup], None]) -> None:
        """There is no mirror to look into."""

    async def troubles(self) -> Mapping[str, str | None]:
        """Tell whether the file can be read."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("SELECT value FROM generation").fetchone()

        try:
            await self._database.read(job)
        except CompanionError as problem:
            return {NAME: str(problem)}
        return {NAME: None}
