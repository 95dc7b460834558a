"""Word of what changed from several places, as one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from companion.background import background
from companion.core.model import Notice, Scope
from companion.core.ports import Notices

_EVERYTHING: Final = (Notice(Scope.EVERYTHING),)
_TOGETHER_SECONDS: Final = 1.0
_MOST: Final = 1000

Follow = Callable[[], AsyncIterator[Sequence[Notice]]]


class JoinedNotices:
    """The port `Notices`: announces through `first`, and follows it and the `others`."""

    def __init__(self, first: Notices, *others: Follow) -> None:
        self._first = first
        self._follow = (first.follow, *others)

    async def announce(self, notice: Notice) -> None:
        """Tell every follower."""
        await self._first.announce(notice)

    async def follow(self) -> AsyncIterator[Sequence[Notice]]:
        """Yield what any of them tells.

        We listen once all do, or after a second those that can; one that comes later may have missed something: EVERYTHING.
        """
        words: asyncio.Queue[Sequence[Notice]] = asyncio.Queue(_MOST)
        listening = 0
        async with background(*(_pass(follow, words) for follow in self._follow)):
            missed: list[Notice] = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TOGETHER_SECONDS):
                    while listening < len(self._follow):
                        told = await words.get()
                        listening += not told
                        missed += told
            if not listening:
                while told := await words.get():
                    missed += told
            yield ()
            if missed:
                yield missed
            while True:
                yield await words.get() or _EVERYTHING


async def _pass(follow: Follow, words: asyncio.Queue[Sequence[Notice]]) -> None:
    async with contextlib.aclosing(follow()) as told:  # type: ignore[type-var]
        async for notices in told:
            await words.put(notices)
