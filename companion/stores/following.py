"""Word of what changed, from several tellers at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from companion.core.model import Notice, Scope
from companion.core.ports import Notices

Follow = Callable[[], AsyncIterator[Sequence[Notice]]]

_WAITING: Final = 10_000
_EVERYTHING: Final = (Notice(Scope.EVERYTHING),)


class JoinedNotices:
    """The port `Notices`: announces by one teller, and follows that one and others.

    The first word comes when the first of them listens: one that is away must not keep the others from being heard. For the
    same reason each that begins to listen later is followed by EVERYTHING: what changed before it listened was not told by it.
    """

    def __init__(self, broadcast: Notices, *others: Follow) -> None:
        self._broadcast = broadcast
        self._follows: tuple[Follow, ...] = (broadcast.follow, *others)

    async def announce(self, notice: Notice) -> None:
        """Tell every follower of the broadcast."""
        await self._broadcast.announce(notice)

    async def follow(self) -> AsyncIterator[Sequence[Notice]]:
        """Yield what any of them tells."""
        told: asyncio.Queue[Sequence[Notice]] = asyncio.Queue(_WAITING)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_forward(follow, told)) for follow in self._follows]
            try:
                listening = False
                while True:
                    notices = await told.get()
                    if notices or not listening:
                        yield notices
                    else:
                        yield _EVERYTHING
                    listening = True
            finally:
                for task in tasks:
                    task.cancel()


async def _forward(follow: Follow, told: asyncio.Queue[Sequence[Notice]]) -> None:
    """Pass on; a follower that does not keep up is waited for, as the teller then reads on later from where it is."""
    async with contextlib.aclosing(follow()) as words:  # type: ignore[type-var]
        async for notices in words:
            await told.put(notices)
