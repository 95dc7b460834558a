"""One profile's adapters together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from companion.core.model import Lookup
from companion.core.ports.account_changes import AccountChanges
from companion.core.ports.audits import Audits
from companion.core.ports.changes import Checkpoints, Inbox, Source
from companion.core.ports.copies import Mirror, Watcher
from companion.core.ports.documents import Documents
from companion.core.ports.guarding import Lockouts, Proofs
from companion.core.ports.identities import Accounts, Counters, Notices, Rules, Sessions, Uses
from companion.core.ports.leases import Leases
from companion.core.ports.presence import Presence
from companion.core.ports.revocations import Revocations
from companion.core.ports.runs import Runs
from companion.core.ports.statistics import Observed, Statistics
from companion.core.ports.tokens import LongTokens
from companion.core.stats import Counting


class Store(Protocol):
    """One profile's adapters, opened and closed together."""

    @property
    def accounts(self) -> Accounts:
        """Accounts."""
        ...

    @property
    def rules(self) -> Rules:
        """Rules."""
        ...

    @property
    def sessions(self) -> Sessions:
        """Platform sessions."""
        ...

    @property
    def revocations(self) -> Revocations:
        """Who is revoked."""
        ...

    @property
    def account_changes(self) -> AccountChanges:
        """Accounts that whoever is connected must not use any more as before."""
        ...

    @property
    def tokens(self) -> LongTokens:
        """Long-lived tokens."""
        ...

    @property
    def uses(self) -> Uses:
        """When credentials were last used."""
        ...

    @property
    def notices(self) -> Notices:
        """Word of what changed."""
        ...

    @property
    def counters(self) -> Counters:
        """Counts of what happens too often."""
        ...

    @property
    def lockouts(self) -> Lockouts:
        """Who is locked out."""
        ...

    @property
    def proofs(self) -> Proofs | None:
        """Credentials that were verified; None in a store that is not faster than verifying what its one machine asks for."""
        ...

    @property
    def leases(self) -> Leases:
        """Who does what only one may do."""
        ...

    @property
    def inbox(self) -> Inbox:
        """Changes to publish."""
        ...

    @property
    def checkpoints(self) -> Checkpoints:
        """Positions of the readers of the inbox."""
        ...

    @property
    def sources(self) -> Sequence[Source]:
        """Where changes come from beside the inbox; none in a store that nobody else writes to."""
        ...

    @property
    def documents(self) -> Documents:
        """Collections, for jobs that go through them."""
        ...

    @property
    def runs(self) -> Runs:
        """Runs of jobs."""
        ...

    @property
    def mirror(self) -> Mirror | None:
        """Copies of entities that are read often; None in a store that is as near itself."""
        ...

    @property
    def watcher(self) -> Watcher | None:
        """Who keeps the mirror; None where there is none."""
        ...

    @property
    def audits(self) -> Audits:
        """Decisions worth keeping."""
        ...

    @property
    def presence(self) -> Presence:
        """Who is connected, by the broker's events."""
        ...

    @property
    def statistics(self) -> Statistics:
        """Counters of changes."""
        ...

    def observed(self, counting: Counting) -> Sequence[Observed]:
        """Return everything from which changes are to be counted, by these rules."""
        ...

    async def troubles(self) -> Mapping[str, str | None]:
        """Return for each store behind this one (`mongodb`, `redis`, `sqlite`) in one line, that names it, why it cannot serve.

        None where it can.
        Takes no longer than a second or two, also when nobody answers.
        """
        ...

    def tell_lookups(self, told: Callable[[Lookup], None]) -> None:
        """Tell from now on what every look into the mirror came to."""
        ...

    @property
    def hooks_need(self) -> Collection[str]:
        """Those of them without which the hooks cannot decide; without the others they go on."""
        ...
