"""Counters in Redis."""

from __future__ import annotations

from typing import Final

from companion.stores.redis.client import RedisClient

_ADD: Final = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return count
"""


class RedisCounters:
    """The port `Counters`."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._add = client.redis.register_script(_ADD)

    async def add(self, key: str, seconds: float) -> int:
        """Count one more and return the count of its window, which the first of it began."""
        keys = [self._client.keys.counter(key)]
        args = [max(1, round(seconds * 1000))]
        return int(await self._client.call(lambda _: self._add(keys=keys, args=args)))
