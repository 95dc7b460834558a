"""When credentials were last used: noted behind the answers' backs, roughly, so that thousands of logins cost a few writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, NoReturn

import structlog

from companion.core.errors import CompanionError
from companion.core.ports import Uses

log = structlog.get_logger("broker_hooks.uses")

_FLUSH_SECONDS: Final = 5.0
_WAITING: Final = 10_000
_REMEMBERED: Final = 100_000


def name_of_secret(username: str, secret_id: str = "") -> str:
    """Return the name of a secret of an account; of the password, the id is empty."""
    return f"secret:{len(username)}:{username}:{secret_id}"


class LazyUses:
    """Notes that credentials were used, each at most once in `every` seconds. What is not written is lost: nothing rests on it."""

    def __init__(self, uses: Uses, every: float, now: Callable[[], float] = time.time) -> None:
        self._uses = uses
        self._every = every
        self._now = now
        self._noted: dict[str, int] = {}
        self._waiting: dict[str, int] = {}

    def note(self, name: str) -> None:
        """Note that this one was used now."""
        at = int(self._now())
        known = self._noted.get(name)
        if known is not None and at - known < self._every:
            return
        if len(self._waiting) >= _WAITING:
            return
        self._noted.pop(name, None)
        while len(self._noted) >= _REMEMBERED:
            del self._noted[next(iter(self._noted))]
        self._noted[name] = at
        self._waiting[name] = at

    async def run(self) -> NoReturn:
        """Write what waits, again and again."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            try:
                await self.flush()
            except CompanionError as problem:
                log.warning("last uses are written later", waiting=len(self._waiting), problem=str(problem))

    async def flush(self) -> None:
        """Write what waits; raises `Transient` and keeps it when the store is away."""
        batch, self._waiting = self._waiting, {}
        if not batch:
            return
        try:
            await self._uses.note(batch)
        except CompanionError:
            self._waiting = batch | self._waiting
            raise
