"""Keeping the mirror: one process follows what changes, under a lease."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

import structlog

from companion.core.errors import CompanionError, Fenced
from companion.core.model import Rebuild
from companion.core.ports import Watcher
from companion.leadership import Leadership, Term
from companion.metrics import Metrics, MirrorMetrics

log = structlog.get_logger("maintenance.mirroring")

LEASE: Final = "mirror"
LEASE_SECONDS: Final = 10.0
"""How long a process that died holds back the next; meanwhile nobody reads the mirror."""

_PAUSE_SECONDS: Final = 5.0
_END_SECONDS: Final = 2.0


class Mirroring:
    """Takes turns with other processes at keeping the mirror."""

    def __init__(self, watcher: Watcher, leadership: Leadership, metrics: Metrics) -> None:
        self._watcher = watcher
        self._leadership = leadership
        self._onlooker = _Onlooker(metrics.mirror)
        self._working: asyncio.Task[None] | None = None
        metrics.leases.held.labels(LEASE).set_function(lambda: leadership.leading)

    async def run(self) -> None:
        """Keep the mirror whenever the lease is ours, until `finish`."""
        await self._leadership.run(self._work)

    async def finish(self) -> None:
        """Give the lease back: the next need not wait until it runs out."""
        self._leadership.stop()
        if self._working is not None:
            self._working.cancel()
        await self._leadership.ended(_END_SECONDS)

    async def _work(self, term: Term) -> None:
        self._working = asyncio.create_task(self._follow(term))
        try:
            # What is half done is done again by whoever comes next: there is nothing to wait for.
            await asyncio.wait([self._working])
            if not self._working.cancelled():
                await self._working
        finally:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    async def _follow(self, term: Term) -> None:
        while True:
            try:
                await self._watcher.follow(term.lease.token, self._onlooker)
            except Fenced:
                raise
            except CompanionError as problem:
                log.error("the mirror is not kept for now", problem=str(problem))
            await asyncio.sleep(_PAUSE_SECONDS * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing


class _Onlooker:
    """Turns what the follower tells into metrics."""

    def __init__(self, metrics: MirrorMetrics) -> None:
        self._metrics = metrics

    def rebuilding(self, collection: str, why: Rebuild) -> None:
        """Count it."""
        self._metrics.rebuilds.labels(collection, why.value).inc()

    def taken(self, collection: str, copies: int) -> None:
        """Count them."""
        self._metrics.taken.labels(collection).inc(copies)

    def served(self, collection: str, seconds: float) -> None:
        """Show how far behind the mirror is, and that it is kept."""
        self._metrics.lag.labels(collection).set(seconds)
        self._metrics.current.labels(collection).set(time.time())
