"""Lock-outs in this process alone, and what to do while the shared ones are away."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from companion.core.errors import Transient
from companion.core.lockouts import Growth, Lockout, Target
from companion.core.ports import Lockouts

log = structlog.get_logger("companion.stores.lockouts")

_MOST: Final = 100_000


class LocalLockouts:
    """Lock-outs in memory, at most so many; when full, the oldest go."""

    def __init__(self, most: int = _MOST, now: Callable[[], float] = time.time) -> None:
        self._most = most
        self._now = now
        self._known: dict[str, Lockout] = {}

    def lock(self, target: Target, growth: Growth) -> Lockout:
        """Lock it out, for longer than the last time; return the lock-out there is when it is locked out already."""
        lockout = growth.next(target, self._known.pop(target.key, None), self._now())
        while len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[target.key] = lockout
        return lockout


class FallbackLockouts:
    """The port `Lockouts`: the shared ones; while those are away each process locks out alone."""

    def __init__(self, shared: Lockouts, local: LocalLockouts) -> None:
        self._shared = shared
        self._local = local
        self._away = False

    async def lock(self, target: Target, growth: Growth) -> Lockout:
        """Lock it out, where that can be done."""
        try:
            lockout = await self._shared.lock(target, growth)
        except Transient as problem:
            if not self._away:
                log.warning("shared lock-outs away, each process locks out alone", problem=str(problem))
            self._away = True
            return self._local.lock(target, growth)
        self._away = False
        return lockout

    async def after(self, number: int, limit: int) -> Sequence[Lockout]:
        """Return up to `limit` of the shared ones behind this number, in order."""
        return await self._shared.after(number, limit)

    async def active(self, limit: int) -> Sequence[Lockout]:
        """Return up to `limit` of the shared ones that hold now, newest first."""
        return await self._shared.active(limit)

    async def lift(self, key: str) -> bool:
        """End a shared one and forget how often it was; False where there is none that holds."""
        return await self._shared.lift(key)
