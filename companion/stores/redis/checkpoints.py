"""Checkpoints in Redis, beside the inbox that they are about: what is lost is lost together."""

from __future__ import annotations

from typing import Final

from companion.core.errors import Fenced
from companion.stores.redis.client import RedisClient

_CLAIM: Final = """
local fence = tonumber(redis.call('HGET', KEYS[1], 'fence') or '-1')
if fence > tonumber(ARGV[1]) then
    return {0}
end
redis.call('HSET', KEYS[1], 'fence', ARGV[1])
if ARGV[2] then
    redis.call('HSET', KEYS[1], 'position', ARGV[2])
end
return {1, redis.call('HGET', KEYS[1], 'position')}
"""


class RedisCheckpoints:
    """The port `Checkpoints`."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._claim = client.redis.register_script(_CLAIM)

    async def load(self, name: str) -> str | None:
        """Return the position; None when nothing was saved."""
        key = self._client.keys.checkpoint(name)
        position = await self._client.call(lambda redis: redis.hget(key, "position"))
        return None if position is None else position.decode()

    async def claim(self, name: str, fence: int) -> str | None:
        """Return the position, and refuse lower fences from now on."""
        return await self._write(name, fence)

    async def save(self, name: str, position: str, fence: int) -> None:
        """Store the position, unless a higher fence has been here."""
        await self._write(name, fence, position)

    async def _write(self, name: str, fence: int, *position: str) -> str | None:
        keys = [self._client.keys.checkpoint(name)]
        written, *found = await self._client.call(lambda _: self._claim(keys=keys, args=[fence, *position]))
        if not written:
            raise Fenced(f"checkpoint {name}: fence {fence} is not the newest")
        return found[0].decode() if found and found[0] is not None else None
