"""Counts of what happens too often: in this process alone, and what to do while the shared ones are away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from companion.core.errors import Transient
from companion.core.ports import Counters

log = structlog.get_logger("companion.stores.counters")

_KEYS: Final = 100_000


class LocalCounters:
    """The port `Counters` in memory, for at most `keys` counts; when full, the oldest window goes."""

    def __init__(self, keys: int = _KEYS, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}

    async def add(self, key: str, seconds: float) -> int:
        """Count one more and return the count of its window, which the first of it began."""
        return self.count(key, seconds)

    def count(self, key: str, seconds: float) -> int:
        """Do the same for who need not wait."""
        now = self._clock()
        end, count = self._windows.get(key, (0.0, 0))
        if end <= now:
            self._windows.pop(key, None)
            self._make_room()
            end, count = now + seconds, 0
        self._windows[key] = (end, count + 1)
        return count + 1

    def _make_room(self) -> None:
        while len(self._windows) >= self._keys:
            del self._windows[next(iter(self._windows))]


class FallbackCounters:
    """The port `Counters`: the shared ones, and those of this process while the shared ones are away."""

    def __init__(self, shared: Counters, local: Counters) -> None:
        self._shared = shared
        self._local = local
        self._away = False

    async def add(self, key: str, seconds: float) -> int:
        """Count one more, where it can be counted."""
        try:
            count = await self._shared.add(key, seconds)
        except Transient as problem:
            if not self._away:
                log.warning("shared counters away, each process counts alone", problem=str(problem))
            self._away = True
            return await self._local.add(key, seconds)
        if self._away:
            log.info("shared counters are back")
        self._away = False
        return count
