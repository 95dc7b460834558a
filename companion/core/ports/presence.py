"""Who is connected, and what the broker told of its clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from companion.core.broker_events import BrokerEvent
from companion.core.presence import Present


class Presence(Protocol):
    """Who is connected, by the broker's events. These are kept for a while, so that what comes again is known."""

    async def take(self, events: Sequence[BrokerEvent]) -> Sequence[str]:
        """Take events durably; return the ids of those that are new.

        Presence follows all of them, also those that are known: a call that failed half-way is made good when it is repeated.
        """
        ...

    async def list(
        self,
        *,
        principal: str | None = None,
        client_id: str | None = None,
        online: bool | None = None,
        after: str = "",
        limit: int = 100,
    ) -> Sequence[Present]:
        """Return up to `limit` in the order of their client ids, behind `after`."""
        ...

    async def untold(self, limit: int) -> Sequence[Present]:
        """Return up to `limit` whose revision the presence topic does not show yet."""
        ...

    async def told(self, shown: Sequence[Present]) -> None:
        """Note that the presence topic shows these; those that have changed since stay untold."""
        ...

    async def prune(self, before: int, through: int | None, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` events that were taken before `before` (Unix milliseconds); return how many.

        Of events that are numbered, those beyond `through` are not counted yet and stay.
        """
        ...
