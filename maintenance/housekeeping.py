"""Housekeeping: what its retention has ended is removed, in small batches, so that the store does not grow for ever."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from companion.core.errors import CompanionError
from companion.core.ports import Store
from companion.metrics import Metrics
from companion.settings import Settings

log = structlog.get_logger("maintenance.housekeeping")

_BATCH: Final = 1000
_PAUSE: Final = 0.05
_EVERY: Final = 300.0
_DAY: Final = 86_400
_PUBLISHER: Final = "publisher"


class Housekeeping:
    """Removes acknowledged changes, audit records and sessions when their time has come."""

    def __init__(
        self, settings: Settings, store: Store, metrics: Metrics, now: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._store = store
        self._removed = metrics.housekeeping_removed
        self._now = now
        self._problem: str | None = None

    async def trouble(self) -> str | None:
        """Return why the last round failed, or None."""
        return self._problem

    async def run(self) -> None:
        """Do a round now and then, until cancelled; a store that is away is tried again in the next round."""
        while True:
            try:
                await self.round()
                self._problem = None
            except CompanionError as problem:
                self._problem = str(problem)
                log.warning("housekeeping failed", problem=self._problem)
            await asyncio.sleep(_EVERY * (0.9 + 0.2 * random.random()))  # noqa: S311 - spreads load, protects nothing

    async def round(self) -> dict[str, int]:
        """Remove what is due and return how much of each; safe to repeat and to interrupt."""
        settings, store, now = self._settings, self._store, self._now()
        changes_before = int((now - settings.retention_changes * _DAY) * 1000)
        audits_before = int((now - settings.retention_audits * _DAY) * 1000)
        through = int(await store.checkpoints.load(_PUBLISHER) or 0)
        removed = {
            "changes": await _all(lambda: store.inbox.prune(through=through, before=changes_before, limit=_BATCH)),
            "audits": await _all(lambda: store.audits.prune(audits_before, _BATCH))
            + await _all(lambda: store.audits.trim(settings.retention_audits_count, _BATCH)),
            "sessions": await _all(lambda: store.sessions.prune(int(now), _BATCH)),
        }
        for what, count in removed.items():
            self._removed.labels(what).inc(count)
        if any(removed.values()):
            log.info("housekeeping", **removed)
        return removed


async def _all(remove: Callable[[], Awaitable[int]]) -> int:
    """Remove batch by batch, with a pause between, so that writers in a hurry get their turn."""
    total = 0
    while (count := await remove()) == _BATCH:
        total += count
        await asyncio.sleep(_PAUSE)
    return total + count
