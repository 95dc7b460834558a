"""Audit records, written in batches behind the answers' backs: an answer never waits for them.

    record ──▶ a queue in memory ──▶ an entry of our chain ──▶ the store
                                             └── while it is away ──▶ the spool on the disk ──▶ the store, in order

A record becomes an entry, with a number and a hash, when its batch is about to be written; from then on it keeps its place, however
often the batch is tried, and the store knows it when it comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from companion.core.chain import Chain, Entry
from companion.core.errors import CompanionError, Permanent
from companion.core.model import Audit
from companion.metrics import Metrics
from companion.spool import Spool

log = structlog.get_logger("broker_hooks.audit")

_KEPT: Final = 20_000
_BATCH: Final = 1000
_EVERY: Final = 0.2
_BACKOFF: Final = (0.4, 5.0)
_LAST_WRITE: Final = 1.0
_LOOK_AROUND: Final = 30.0


class Keeper(Protocol):
    """What the trail needs of `companion.core.ports.Audits`."""

    async def keep(self, entries: Sequence[Entry]) -> None:
        """Store the entries of a writer's chain, in order; those that are there already are not stored twice."""
        ...


class AuditTrail:
    """A bounded queue, and behind it a bounded spool, in front of the store; when both are full, the oldest in the queue go.

    How many these were becomes a record itself. Without a spool what waits is in memory only.
    """

    def __init__(self, audits: Keeper, metrics: Metrics, spool: Spool | None = None) -> None:
        self._audits = audits
        self._dropped = metrics.audits.dropped.inc
        self._spooled = metrics.audits.spooled.set
        self._spool = spool
        self._chain = Chain()
        self._waiting: deque[Audit] = deque()
        self._entries: Sequence[Entry] = ()
        """Entries of ours that are neither in the store nor on the disk; nothing is sealed before they are."""
        self._lost = 0
        self._wake = asyncio.Event()
        self._looked_around = float("-inf")

    def record(self, audit: Audit) -> None:
        """Take one record."""
        if self._waiting and len(self._waiting) + len(self._entries) >= _KEPT:
            self._waiting.popleft()
            self._lose(1)
        self._waiting.append(audit)
        self._wake.set()

    async def run(self) -> None:
        """Write what waits, until cancelled."""
        pause = _EVERY
        while True:
            await self._adopt()
            await self._news()
            # Whatever comes within this moment shares one transaction.
            await asyncio.sleep(pause)
            try:
                await self._deliver_spool()
                # Only what waits now: under load, what comes during a write would make the next one, and transactions of a few
                # records would follow each other without an end, at the cost of a quarter of the decisions.
                for _ in range(0, len(self._waiting) + len(self._entries), _BATCH):
                    await self._write()
                pause = _EVERY
            except CompanionError as problem:
                await self._spill()
                log.warning("audit records wait", waiting=self._all_waiting, problem=str(problem))
                shortest, longest = _BACKOFF
                pause = min(max(pause * 2, shortest), longest)

    async def flush(self) -> None:
        """Write everything, also what comes meanwhile; raises `Transient` when the store is away.

        What could not be written is then on the disk, or, without a spool, kept for the next call.
        """
        try:
            await self._deliver_spool()
            while self._waiting or self._entries:
                await self._write()
        except CompanionError:
            await self._spill()
            raise

    async def close(self) -> None:
        """Write everything to where it is kept, and let go of the spool; its file, if any, is for the next process."""
        with contextlib.suppress(CompanionError):
            await self.flush()
        if self._spool is not None:
            await asyncio.to_thread(self._spool.close)

    @property
    def _all_waiting(self) -> int:
        return len(self._waiting) + len(self._entries) + (0 if self._spool is None else self._spool.waiting)

    async def _news(self) -> None:
        """Wait until there is something to write; with something on the disk, that is now."""
        if self._spool is not None and self._spool.waiting:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AROUND):
                await self._wake.wait()

    async def _write(self) -> None:
        """Write one batch of what waits longest."""
        self._seal()
        if not self._entries:
            return
        entries = self._entries
        # Cancelling does not stop a write that has begun; unless its end is awaited, the batch would be tried again for nothing.
        writing = asyncio.ensure_future(self._audits.keep(entries))
        try:
            await asyncio.shield(writing)
        except Permanent as problem:
            log.error("audit records lost", records=len(entries), problem=str(problem))
            # What of the batch is stored nobody knows: a chain of their own is for those that follow.
            self._chain = Chain()
            self._entries = ()
            self._lose(len(entries))
        except BaseException:
            await asyncio.wait({writing}, timeout=_LAST_WRITE)
            if writing.done() and not writing.cancelled() and writing.exception() is None:
                self._entries = ()
            writing.cancel()
            raise
        else:
            self._entries = ()
        if not self._waiting:
            self._wake.clear()

    def _seal(self) -> None:
        """Make a batch of what waits the next entries of the chain, unless there are some."""
        if self._entries or not self._waiting:
            return
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        if self._lost:
            lost, self._lost = self._lost, 0
            at = int(time.time() * 1000)
            batch.insert(0, Audit(at, "audit", "done", "lost", detail=f"{lost} records", source="audit"))
        self._entries = self._chain.seal(batch)

    def _lose(self, count: int) -> None:
        self._lost += count
        self._dropped(count)

    async def _spill(self) -> None:
        """Bring everything that waits in memory to the disk, as far as there is room."""
        if self._spool is None:
            return
        try:
            while self._entries or self._waiting:
                self._seal()
                if not await asyncio.to_thread(self._spool.keep, self._entries):
                    break
                self._entries = ()
            if not self._waiting and not self._entries:
                self._wake.clear()
        except OSError as problem:
            log.error("audit records cannot be kept on the disk", problem=problem.strerror or str(problem))
        self._spooled(self._spool.waiting)

    async def _deliver_spool(self) -> None:
        if self._spool is not None and self._spool.waiting:
            await self._deliver(self._spool)
            log.info("audit records were delivered from the disk")

    async def _deliver(self, spool: Spool) -> None:
        """Bring a spool to the store, oldest first."""
        while entries := await asyncio.to_thread(spool.next, _BATCH):
            try:
                await self._audits.keep(entries)
            except Permanent as problem:
                log.error("audit records lost", records=len(entries), problem=str(problem))
                self._lose(len(entries))
            await asyncio.to_thread(spool.delivered, len(entries))
            if self._spool is not None:
                self._spooled(self._spool.waiting)

    async def _adopt(self) -> None:
        """Deliver now and then what processes that are gone have left on the disk."""
        if self._spool is None or time.monotonic() - self._looked_around < _LOOK_AROUND:
            return
        self._looked_around = time.monotonic()
        abandoned = self._spool.abandoned()
        try:
            while (left := await asyncio.to_thread(next, abandoned, None)) is not None:
                await self._deliver(left)
        except (CompanionError, OSError) as problem:
            log.warning("audit records of another process wait", problem=str(problem))
        finally:
            await asyncio.to_thread(abandoned.close)
