"""Counters between two flushes, in Redis: one script adds to them and moves the reader's position.

Why that is exactly once, and what a flush is, stands in `companion.stores.statistics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from companion.core.errors import Fenced
from companion.core.stats import Increments, Slot
from companion.stores.redis.client import RedisClient

_POSITION: Final = b"@"
_NUMBER: Final = b"#"
_SECONDS: Final = 5.0

_CLAIM: Final = """
if tonumber(redis.call('HGET', KEYS[1], 'fence') or '0') >= tonumber(ARGV[1]) then
    return 0
end
local kept = tonumber(ARGV[2])
if tonumber(redis.call('HGET', KEYS[1], 'flush') or '0') < kept then
    redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
    redis.call('HSET', KEYS[1], 'flush', ARGV[2])
    for index = 3, #ARGV, 2 do
        redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
    end
end
if tonumber(redis.call('HGET', KEYS[3], '#') or '0') <= kept then
    redis.call('DEL', KEYS[3])
end
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'step', 0)
return 1
"""

_STEP: Final = """
local fence = redis.call('HGET', KEYS[1], 'fence')
local step = tonumber(redis.call('HGET', KEYS[1], 'step') or '-1')
if fence ~= ARGV[1] or (step ~= tonumber(ARGV[2]) and step ~= tonumber(ARGV[2]) - 1) then
    return -1
end
local new = step ~= tonumber(ARGV[2])
if new then
    redis.call('HSET', KEYS[1], 'step', ARGV[2])
end
"""

_APPLY: Final = (
    _STEP
    + """
if new then
    redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
    for index = 5, #ARGV, 2 do
        redis.call('HINCRBY', KEYS[2], ARGV[index], ARGV[index + 1])
    end
end
return redis.call('HLEN', KEYS[2])
"""
)

_FREEZE: Final = (
    _STEP
    + """
if new and redis.call('EXISTS', KEYS[3]) == 0 then
    if redis.call('EXISTS', KEYS[2]) == 1 then
        redis.call('RENAME', KEYS[2], KEYS[3])
    end
    redis.call('HSET', KEYS[3], '#', redis.call('HINCRBY', KEYS[1], 'flush', 1))
    local state = redis.call('HGETALL', KEYS[1])
    for index = 1, #state, 2 do
        if string.sub(state[index], 1, 1) == '@' then
            redis.call('HSET', KEYS[3], state[index], state[index + 1])
        end
    end
end
return redis.call('EXISTS', KEYS[3])
"""
)

_DROP: Final = """
if redis.call('HGET', KEYS[1], '#') == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""


@dataclass(frozen=True, slots=True)
class Frozen:
    """A flush: its number, the positions up to which it reaches, and what it adds."""

    number: int
    positions: Mapping[str, str]
    added: Increments


class RedisTally:
    """The counters of one observer at a time."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        keys = client.keys
        self._keys = [keys.stats, keys.stats_live, keys.stats_frozen]
        self._claim = client.redis.register_script(_CLAIM)
        self._apply = client.redis.register_script(_APPLY)
        self._freeze = client.redis.register_script(_FREEZE)
        self._drop = client.redis.register_script(_DROP)

    async def claim(self, fence: int, kept: int, positions: Mapping[str, str]) -> Mapping[str, str]:
        """Begin, after the flush `kept`, which reached up to these positions; return where each reader stands.

        What is older than that flush is thrown away.
        """
        args: list[str | bytes | int] = [fence, kept]
        for reader, position in positions.items():
            args += [_reader(reader), position]
        if not await self._client.call(lambda _: self._claim(keys=self._keys, args=args), _SECONDS):
            raise Fenced(f"statistics: fence {fence} is not the newest")
        state = await self._client.call(lambda redis: redis.hgetall(self._client.keys.stats), _SECONDS)
        return _positions(state)

    async def apply(self, fence: int, step: int, reader: str, position: str, added: Increments) -> int:
        """Add to the counters and move the reader there, once; return how many counters there are."""
        args: list[str | bytes | int] = [fence, step, _reader(reader), position]
        for slot, amount in added.items():
            args += [msgspec.json.encode(slot), amount]
        waiting = int(await self._client.call(lambda _: self._apply(keys=self._keys, args=args), _SECONDS))
        return _next(waiting, fence, step)

    async def freeze(self, fence: int, step: int) -> None:
        """Set the counters, if any, and the positions aside to be flushed, unless others still are."""
        args = [fence, step]
        _next(int(await self._client.call(lambda _: self._freeze(keys=self._keys, args=args), _SECONDS)), fence, step)

    async def frozen(self) -> Frozen | None:
        """Return what is to be flushed."""
        found = await self._client.call(lambda redis: redis.hgetall(self._client.keys.stats_frozen), _SECONDS)
        if not found:
            return None
        added = {
            msgspec.json.decode(field, type=Slot): int(amount)
            for field, amount in found.items()
            if field[:1] not in (_NUMBER, _POSITION)
        }
        return Frozen(int(found[_NUMBER]), _positions(found), added)

    async def drop(self, number: int) -> None:
        """Forget what was set aside under this number; no error when it is gone."""
        keys = [self._client.keys.stats_frozen]
        await self._client.call(lambda _: self._drop(keys=keys, args=[number]))


def _reader(name: str) -> bytes:
    return _POSITION + name.encode()


def _positions(state: Mapping[bytes, bytes]) -> Mapping[str, str]:
    return {field[1:].decode(): value.decode() for field, value in state.items() if field[:1] == _POSITION}


def _next(answer: int, fence: int, step: int) -> int:
    if answer < 0:
        raise Fenced(f"statistics: step {step} of fence {fence} is not the next")
    return answer
