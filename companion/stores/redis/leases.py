"""Leases in Redis, by its clock; one script each, so that nobody comes in between.

A new token is higher than the last one and than the clock's milliseconds: it grows also when Redis has lost its data.
"""

from __future__ import annotations

from typing import Final

from companion.core.ports import Held, Lease
from companion.stores.redis.client import RedisClient

_ACQUIRE: Final = """
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[1] then
    return {holder, redis.call('PTTL', KEYS[1])}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token = math.max(tonumber(redis.call('GET', KEYS[2]) or '0') + 1, now)
redis.call('SET', KEYS[2], string.format('%.0f', token))
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'token', string.format('%.0f', token))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return string.format('%.0f', token)
"""

_RENEW: Final = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

_RELEASE: Final = """
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""


class RedisLeases:
    """The port `Leases`."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._acquire = client.redis.register_script(_ACQUIRE)
        self._renew = client.redis.register_script(_RENEW)
        self._release = client.redis.register_script(_RELEASE)

    async def acquire(self, name: str, holder: str, seconds: float) -> Lease | Held:
        """Take the lease if it is free, has run out or is ours already; else tell who has it, and for how long."""
        keys = [self._client.keys.lease(name), self._client.keys.lease_token(name)]
        answer = await self._client.call(lambda _: self._acquire(keys=keys, args=[holder, _milliseconds(seconds)]))
        if isinstance(answer, list):
            other, left = answer
            return Held(other.decode(), max(0, left) / 1000)
        return Lease(name, holder, int(answer))

    async def renew(self, lease: Lease, seconds: float) -> bool:
        """Extend it to `seconds` from now; False when it has run out or was taken."""
        keys = [self._client.keys.lease(lease.name)]
        args = [lease.token, _milliseconds(seconds)]
        return bool(await self._client.call(lambda _: self._renew(keys=keys, args=args)))

    async def release(self, lease: Lease) -> None:
        """Give it back; the token stays known."""
        keys = [self._client.keys.lease(lease.name)]
        await self._client.call(lambda _: self._release(keys=keys, args=[lease.token]))


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
