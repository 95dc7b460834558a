"""Audit records, written in batches behind the answers' backs: an answer never waits for them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import structlog

from companion.core.errors import CompanionError, Permanent
from companion.core.model import Audit
from companion.core.ports import Audits
from companion.metrics import Metrics

log = structlog.get_logger("broker_hooks.audit")

_KEPT: Final = 20_000
_BATCH: Final = 1000
_EVERY: Final = 0.2
_BACKOFF: Final = (0.4, 5.0)
_LAST_WRITE: Final = 1.0


class AuditTrail:
    """A bounded queue in front of the store; when the store is away too long, the oldest records are dropped and counted."""

    def __init__(self, audits: Audits, metrics: Metrics) -> None:
        self._audits = audits
        self._dropped = metrics.audits_dropped.inc
        self._waiting: deque[Audit] = deque()
        self._wake = asyncio.Event()

    def record(self, audit: Audit) -> None:
        """Take one record."""
        if len(self._waiting) >= _KEPT:
            self._waiting.popleft()
            self._dropped()
        self._waiting.append(audit)
        self._wake.set()

    async def run(self) -> None:
        """Write what waits, until cancelled."""
        pause = _EVERY
        while True:
            await self._wake.wait()
            # Whatever comes within this moment shares one transaction.
            await asyncio.sleep(pause)
            try:
                # Only what waits now: under load, what comes during a write would make the next one, and transactions of a few
                # records would follow each other without an end, at the cost of a quarter of the decisions.
                for _ in range(0, len(self._waiting), _BATCH):
                    await self._write()
                pause = _EVERY
            except CompanionError as problem:
                log.warning("audit records wait", waiting=len(self._waiting), problem=str(problem))
                shortest, longest = _BACKOFF
                pause = min(max(pause * 2, shortest), longest)

    async def flush(self) -> None:
        """Write everything, also what comes meanwhile; raises `Transient` and keeps the rest when the store is away."""
        while self._waiting:
            await self._write()

    async def _write(self) -> None:
        """Write one batch of what waits longest."""
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        # Cancelling does not stop a write that has begun; unless its end is awaited, the batch would be written twice.
        writing = asyncio.ensure_future(self._audits.append(batch))
        try:
            await asyncio.shield(writing)
        except Permanent as problem:
            log.error("audit records lost", records=len(batch), problem=str(problem))
            self._dropped(len(batch))
        except BaseException:
            await asyncio.wait({writing}, timeout=_LAST_WRITE)
            if not writing.done() or writing.exception() is not None:
                writing.cancel()
                self._waiting.extendleft(reversed(batch))
            raise
        if not self._waiting:
            self._wake.clear()
