"""The observer: counts every change once, in time for whoever looks at the statistics.

    sources ──read──▶ increments ──apply──▶ counters and position, together ──flush──▶ where they are read

It runs under a lease; its token fences every write, and its steps are numbered, so that one whose outcome was not heard can be
repeated (`companion.core.ports.Statistics`). Sources are read side by side; their steps go one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

import structlog

from companion.core.errors import CompanionError, Fenced
from companion.core.ports import Observed, Seen, Statistics
from companion.core.stats import Zones, increments
from companion.leadership import Term
from companion.metrics import Metrics

log = structlog.get_logger("maintenance.observer")

_READ: Final = 500
_FULL: Final = 2000
"""So many counters are flushed without waiting for the time: a flush is one transaction."""

_BACKOFF: Final = (0.1, 5.0)

T = TypeVar("T")


class Observer:
    """Counts until it is told to stop."""

    def __init__(
        self,
        *,
        sources: Sequence[Observed],
        statistics: Statistics,
        zones: Zones,
        flush_seconds: float,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.problem: str | None = None
        """Why nothing can be counted, in one line; None while it can."""
        self._sources = sources
        self._statistics = statistics
        self._zones = zones
        self._flush_seconds = flush_seconds
        self._metrics = metrics
        self._now = now
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._full = asyncio.Event()
        self._writing = asyncio.Lock()
        self._fence = 0
        self._step = 0
        self._unflushed = False
        self._lost = {source.name: source.lost for source in sources}
        for source in sources:
            # A scrape shows every series from the start.
            metrics.stats.changes.labels(source.name)
            metrics.stats.lost.labels(source.name)

    async def finish(self, seconds: float) -> None:
        """Read no more, and wait up to `seconds` until what was counted is flushed."""
        self._stopping.set()
        self._full.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    async def run(self, term: Term) -> None:
        """Count until `finish`, while the lease is ours. A store that is away is waited for.

        Raises `Fenced`, alone or in a group, when another observer has been here, or the counters have gone back: then everything
        begins anew under the next lease.
        """
        self._ended.clear()
        try:
            self._fence, self._step, self._unflushed = term.lease.token, 0, True
            # One whose answer was lost is refused when it is repeated, and the next lease begins anew.
            positions = await self._patiently(lambda: self._statistics.claim(self._fence))
            # What an earlier life has set aside comes first, alone.
            await self._flush()
            async with asyncio.TaskGroup() as works:
                works.create_task(self._keep_flushing())
                for source in self._sources:
                    works.create_task(self._follow(source, positions.get(source.name)))
            await self._flush()
        finally:
            for source in self._sources:
                with contextlib.suppress(CompanionError):
                    await source.close()
            self._ended.set()

    async def _follow(self, source: Observed, position: str | None) -> None:
        first = await self._patiently(lambda: source.open(position))
        if first is not None:
            await self._apply(source, [Seen(first, None)])
        while not self._stopping.is_set():
            seen = await self._patiently(lambda: source.read(_READ))
            if seen:
                await self._apply(source, seen)
            self._metrics.stats.lost.labels(source.name).inc(source.lost - self._lost[source.name])
            self._lost[source.name] = source.lost

    async def _apply(self, source: Observed, seen: Sequence[Seen]) -> None:
        facts = [one.fact for one in seen if one.fact is not None]
        added, position = increments(facts, self._zones), seen[-1].position
        waiting = await self._make(lambda step: self._statistics.apply(self._fence, step, source.name, position, added))
        self._unflushed = True
        if waiting >= _FULL:
            self._full.set()
        if facts:
            self._metrics.stats.changes.labels(source.name).inc(len(facts))
            self._metrics.stats.lag.set(max(0.0, self._now() - facts[-1].at / 1000))

    async def _keep_flushing(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._flush_seconds):
                    await self._full.wait()
            self._full.clear()
            await self._flush()

    async def _flush(self) -> None:
        if not self._unflushed:
            return
        self._unflushed = False
        count = await self._make(lambda step: self._statistics.flush(self._fence, step))
        positions: Mapping[str, str] = await self._patiently(self._statistics.positions)
        for source in self._sources:
            if source.name in positions:
                await self._patiently(lambda source=source: source.settled(positions[source.name]))  # type: ignore[misc]
        self._metrics.stats.flushed.set(self._now())
        log.debug("flushed", counters=count)

    async def _make(self, write: Callable[[int], Awaitable[T]]) -> T:
        """Make the next step, as often as it takes: nobody else's step may come between two attempts."""
        async with self._writing:
            self._step += 1
            return await self._patiently(lambda: write(self._step))

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the store again and again until it answers; only the first failure in a row is logged."""
        pause, longest = _BACKOFF
        while True:
            try:
                result = await call()
            except Fenced as problem:
                self._metrics.leases.fenced.inc()
                log.warning("fenced: counting begins anew", problem=str(problem))
                raise
            except CompanionError as problem:
                if self.problem is None:
                    log.warning("nothing is counted while the store is away", problem=str(problem))
                self.problem = str(problem)
                await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing
                pause = min(pause * 2, longest)
            else:
                self.problem = None
                return result
