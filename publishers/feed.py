"""One source as the pipeline sees it: what was read from it, how far it is done, and the saving of that."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog

from companion.core.errors import CompanionError, Fenced
from companion.core.ports import Item, Source
from companion.metrics import Metrics
from publishers.progress import Progress

log = structlog.get_logger("publishers.feed")

_SAVE_SECONDS: Final = 0.05
_BACKOFF: Final = (0.1, 10.0)
_GAUGE_SECONDS: Final = 5.0

T = TypeVar("T")


class Feed:
    """A source for the time of one lease. Items are numbered as they are taken; the numbers say how far all is done.

    `Fenced` leaves every call at once: another process reads this source now. A store that is away is waited for.
    """

    def __init__(self, source: Source, metrics: Metrics) -> None:
        self._source = source
        self._metrics = metrics
        self._progress = Progress(0)
        self._positions: dict[int, str] = {0: ""}
        self._number = 0
        self._saved = 0
        self._acknowledged: list[tuple[str, int]] = []
        self._counted = dict(source.incidents)

    @property
    def name(self) -> str:
        """The name of the source."""
        return self._source.name

    @property
    def open_count(self) -> int:
        """How many items are begun and not done."""
        return self._progress.open

    @property
    def held(self) -> int:
        """How many items are done behind one that is not."""
        return self._progress.held

    async def open(self, fence: int) -> None:
        """Go to the checkpoint and claim it for the lease with this fencing token."""
        await self._patiently(lambda: self._source.open(fence))

    async def read(self, limit: int) -> Sequence[Item]:
        """Return what follows; with nothing new, after a moment, nothing."""
        return await self._patiently(lambda: self._source.read(limit))

    def begin(self, item: Item) -> int:
        """Note that work on this item has begun and return its number."""
        self._number += 1
        self._positions[self._number] = item.position
        self._progress.begin(self._number)
        return self._number

    def finish(self, number: int, acknowledged_at: int | None = None) -> None:
        """Note that this item is done; `acknowledged_at` (Unix milliseconds) if its messages were acknowledged."""
        if acknowledged_at is not None:
            self._acknowledged.append((self._positions[number], acknowledged_at))
        before = self._progress.position
        self._progress.finish(number)
        for passed in range(before, self._progress.position):
            del self._positions[passed]

    async def bury(self, item: Item, reason: str) -> None:
        """Record that this change cannot be published."""
        await self._patiently(lambda: self._source.bury(item, reason))

    async def save(self) -> None:
        """Write the acknowledgements and the checkpoint; raises `Transient` when the store is away."""
        acknowledged, self._acknowledged = self._acknowledged, []
        # Both now: the head goes on while we wait, and what lies behind it is forgotten.
        head = self._progress.position
        position = self._positions[head]
        try:
            if acknowledged:
                await self._source.acknowledge(acknowledged)
            if head > self._saved:
                await self._source.save(position)
                if position.isdecimal():
                    self._metrics.publishing.checkpoint.set(int(position))
        except BaseException:
            self._acknowledged[:0] = acknowledged
            raise
        self._saved = max(head, self._saved)

    async def keep_saving(self) -> None:
        """Save whenever there is something to save; never returns."""
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            if self._acknowledged or self._progress.position > self._saved:
                await self._patiently(self.save)

    async def keep_measuring(self) -> None:
        """Show the backlog, where the source knows it, and what went wrong with the source."""
        while True:
            self._count_incidents()
            waiting = await self._patiently(self._source.backlog)
            if waiting is not None:
                self._metrics.publishing.backlog.set(waiting)
            await asyncio.sleep(_GAUGE_SECONDS)

    def _count_incidents(self) -> None:
        for incident, count in self._source.incidents.items():
            self._metrics.publishing.incidents[incident].inc(count - self._counted.get(incident, 0))
            self._counted[incident] = count

    async def end(self) -> None:
        """Save what can be saved and let go of the source."""
        self._count_incidents()
        if self._progress.open:
            log.warning(
                "stopped before all was published: the rest follows after the next start",
                source=self.name,
                changes=self._progress.open,
            )
        for last in (self.save, self._source.close):
            with contextlib.suppress(CompanionError):
                await self._noting_fences(last)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the store again and again until it answers; only the first failure in a row is logged."""
        pause, longest = _BACKOFF
        failed = False
        while True:
            try:
                return await self._noting_fences(call)
            except Fenced:
                raise
            except CompanionError as problem:
                if not failed:
                    log.warning("store away, publishing waits", source=self.name, problem=str(problem))
                failed = True
                await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing
                pause = min(pause * 2, longest)

    async def _noting_fences(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await call()
        except Fenced as problem:
            self._metrics.leases.fenced.inc()
            log.warning("fenced: another process has the lease", source=self.name, problem=str(problem))
            raise
