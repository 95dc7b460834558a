"""Decisions worth keeping, in chains, and the seals over these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from companion.core.chain import Entry
from companion.core.model import Audit
from companion.core.seals import Seal

REFUSING: Final = ("auth", "authz", "broker")
"""Kinds of records whose denial is one: what the hooks refused, and what the broker refused by itself."""


class ChainState(NamedTuple):
    """What there is of a chain: its lowest and its highest number, and how many entries."""

    chain: str
    first: int
    last: int
    size: int


class Audits(Protocol):
    """Decisions worth keeping."""

    async def append(self, records: Sequence[Audit]) -> None:
        """Store them, in order, as a chain of their own: for whoever writes now and then."""
        ...

    async def keep(self, entries: Sequence[Entry]) -> None:
        """Store the entries of a writer's chain, in order; those that are there already are not stored twice."""
        ...

    async def latest(self, limit: int) -> Sequence[Audit]:
        """Return the newest records, newest first."""
        ...

    async def refused(self, since: int, limit: int) -> Sequence[Audit]:
        """Return up to `limit` records of `REFUSING` kinds that say deny, from `since` (Unix milliseconds) on, newest first."""
        ...

    async def extent(self) -> tuple[int, int]:
        """Return about how many records there are, and the time of the oldest (Unix milliseconds; 0 for none)."""
        ...

    async def chains(self, after: str, limit: int) -> Sequence[ChainState]:
        """Return up to `limit` chains whose names lie behind `after`, in the order of their names."""
        ...

    async def entries(self, chain: str, after: int, limit: int) -> Sequence[Entry]:
        """Return up to `limit` entries of a chain behind this number, in order."""
        ...

    async def unchained(self, since: int) -> int:
        """Return how many records of this time (Unix milliseconds) or later are in no chain."""
        ...

    async def forget_salts(self, limit: int) -> int:
        """Take the salts from up to `limit` records that were pseudonymised; return how many."""
        ...

    async def seals(self, after: int, limit: int) -> Sequence[Seal]:
        """Return up to `limit` seals behind this number, in order."""
        ...

    async def last_seal(self) -> Seal | None:
        """Return the newest seal."""
        ...

    async def add_seal(self, seal: Seal) -> bool:
        """Store a seal; False when there is one of its number."""
        ...

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` records older than `before` (Unix milliseconds); return how many. `dry` only counts them."""
        ...

    async def trim(self, keep: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` of the oldest records beyond the newest `keep`; return how many. `dry` only counts them."""
        ...
