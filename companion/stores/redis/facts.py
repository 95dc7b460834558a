"""What is to be counted of the inbox: a stream of facts beside it, since its own entries go when they are published.

The script that takes a change adds its fact, so that both happen once. The stream is bounded: facts beyond the bound, because
nobody counts them, are kept out and their number stands in a key of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import structlog

from companion.core.ports import Seen
from companion.core.stats import Fact
from companion.stores.redis.client import RedisClient

log = structlog.get_logger("companion.stores.redis")

NAME: Final = "facts"
_IDLE_SECONDS: Final = 0.5
_SECONDS: Final = 5.0


class RedisFacts:
    """The port `Observed`; positions are ids of the stream."""

    name = NAME

    def __init__(self, client: RedisClient) -> None:
        self.lost = 0
        self._client = client
        self._key = client.keys.facts
        self._read = b"0"

    async def open(self, position: str | None) -> str | None:
        """Go behind this position; without one, count all that is there."""
        self._read = (position or "0").encode()
        return None

    async def read(self, limit: int) -> Sequence[Seen]:
        """Return what follows; with nothing new, wait a moment."""
        after = b"(" + self._read
        found = await self._client.call(lambda redis: redis.xrange(self._key, min=after, count=limit), _SECONDS)
        if not found:
            await self._look_for_losses()
            await asyncio.sleep(_IDLE_SECONDS)
            return []
        self._read = found[-1][0]
        return [Seen(one.decode(), self._fact(fields)) for one, fields in found]

    def _fact(self, fields: Mapping[bytes, bytes]) -> Fact | None:
        try:
            return msgspec.json.decode(fields[b"fact"], type=Fact)
        except (msgspec.MsgspecError, KeyError, UnicodeDecodeError) as problem:
            log.error("a fact cannot be read: it is not counted", problem=type(problem).__name__)
            self.lost += 1
            return None

    async def settled(self, position: str) -> None:
        """Remove the facts up to this position."""
        behind = int(position.partition("-")[0]) + 1
        await self._client.call(lambda redis: redis.xtrim(self._key, minid=behind, approximate=False), _SECONDS)

    async def _look_for_losses(self) -> None:
        key = self._client.keys.facts_lost
        lost = int(await self._client.call(lambda redis: redis.getdel(key)) or 0)
        if lost:
            log.error("changes were not counted: too many waited", changes=lost)
            self.lost += lost

    async def close(self) -> None:
        """Nothing is held."""
