"""The inbox as a source of changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from companion.core.model import Incident
from companion.core.ports import Checkpoints, Inbox, Item

CHECKPOINT: Final = "publisher"
"""The name of its checkpoint; housekeeping removes nothing behind it."""

_IDLE_SECONDS: Final = 0.5


class InboxSource:
    """The port `Source` over an inbox and its checkpoints; positions are numbers in decimal."""

    name = "inbox"
    incidents: Mapping[Incident, int] = MappingProxyType({})

    def __init__(self, inbox: Inbox, checkpoints: Checkpoints) -> None:
        self._inbox = inbox
        self._checkpoints = checkpoints
        self._news = asyncio.Event()
        self._fence = 0
        self._read = 0
        self._saved = 0

    def wake(self) -> None:
        """Tell that the inbox has something new, so that reading need not wait."""
        self._news.set()

    async def open(self, fence: int) -> None:
        """Claim the checkpoint and go there."""
        position = await self._checkpoints.claim(CHECKPOINT, fence)
        self._fence = fence
        self._read = self._saved = int(position or 0)

    async def read(self, limit: int) -> Sequence[Item]:
        """Return what follows; with nothing new, wait a moment. Another process may have filled the inbox."""
        received = await self._inbox.read(self._read, limit)
        if received:
            self._read = received[-1].position
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self._news.wait()
            self._news.clear()
        return [Item(str(one.position), one.change) for one in received]

    async def acknowledge(self, acknowledged: Sequence[tuple[str, int]]) -> None:
        """Note that these changes were published, and when (Unix milliseconds)."""
        await self._inbox.acknowledge([(int(position), at) for position, at in acknowledged])

    async def save(self, position: str) -> None:
        """Save the checkpoint."""
        await self._checkpoints.save(CHECKPOINT, position, self._fence)
        self._saved = int(position)

    async def bury(self, item: Item, reason: str) -> None:
        """Mark the change as dead."""
        await self._inbox.bury(int(item.position), reason)

    async def backlog(self) -> int:
        """Return how many changes wait."""
        return await self._inbox.backlog(self._saved)

    async def close(self) -> None:
        """Nothing is held."""
