"""Lock-outs in Redis: a hash for each, and a sorted set that orders what was told about them; by the clock of Redis.

All lie in one slot of a cluster. They are few: each stands for many refused logins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from companion.core.lockouts import Growth, Lockout, Target
from companion.stores.redis.client import RedisClient

_MOST: Final = 100_000
_LIFTED_SECONDS: Final = 3600
"""How long it is known that a lock-out was lifted: followers hear of it within seconds."""

_NOW: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local base = KEYS[1]
local function whole(value) return string.format('%.0f', value) end
"""

_TELL: Final = """
local function tell(key)
    local number = redis.call('INCR', base .. ':last')
    redis.call('ZADD', base .. ':log', number, key)
    -- The oldest go when they have ended, a few at each turn, or when there are too many.
    for _, old in ipairs(redis.call('ZRANGE', base .. ':log', 0, 9)) do
        if redis.call('EXISTS', base .. ':of:' .. old) == 0 then
            redis.call('ZREM', base .. ':log', old)
        end
    end
    redis.call('ZREMRANGEBYRANK', base .. ':log', 0, -tonumber(ARGV[1]) - 1)
    return number
end
"""

_LOCK: Final = (
    _NOW
    + _TELL
    + """
local _, key, username, address, first, longest, memory = unpack(ARGV)
local of = base .. ':of:' .. key
local known = redis.call('HMGET', of, 'until', 'times', 'number')
if known[1] and tonumber(known[1]) > now then
    return known
end
local times = tonumber(known[2] or '0') + 1
local lasts = math.min(tonumber(first) * 2 ^ math.min(times - 1, 64), tonumber(longest))
redis.call('HSET', of, 'username', username, 'address', address, 'until', whole(now + lasts), 'times', times)
redis.call('PEXPIRE', of, whole(lasts + tonumber(memory)))
local number = tell(key)
redis.call('HSET', of, 'number', number)
return {whole(now + lasts), whole(times), whole(number)}
"""
)

_AFTER: Final = (
    _NOW
    + """
local number = tonumber(ARGV[1])
if tonumber(redis.call('GET', base .. ':last') or '0') < number then
    number = 0
end
local found = {}
for _, key in ipairs(redis.call('ZRANGEBYSCORE', base .. ':log', '(' .. whole(number), '+inf', 'LIMIT', 0, ARGV[2])) do
    local of = redis.call('HMGET', base .. ':of:' .. key, 'username', 'address', 'until', 'times', 'number')
    found[#found + 1] = {key, of[1] or '', of[2] or '', of[3] or '0', of[4] or '0', redis.call('ZSCORE', base .. ':log', key)}
end
return found
"""
)

_ACTIVE: Final = (
    _NOW
    + """
local found = {}
for _, key in ipairs(redis.call('ZREVRANGE', base .. ':log', 0, -1)) do
    local of = redis.call('HMGET', base .. ':of:' .. key, 'username', 'address', 'until', 'times', 'number')
    if of[3] and tonumber(of[3]) > now then
        found[#found + 1] = {key, of[1], of[2], of[3], of[4], of[5]}
        if #found >= tonumber(ARGV[1]) then
            break
        end
    end
end
return found
"""
)

_LIFT: Final = (
    _NOW
    + _TELL
    + """
local of = base .. ':of:' .. ARGV[2]
local ends = redis.call('HGET', of, 'until')
if not ends or tonumber(ends) <= now then
    return 0
end
redis.call('HSET', of, 'until', 0, 'times', 0, 'number', tell(ARGV[2]))
redis.call('EXPIRE', of, ARGV[3])
return 1
"""
)


class RedisLockouts:
    """The port `Lockouts`."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._lock = client.redis.register_script(_LOCK)
        self._after = client.redis.register_script(_AFTER)
        self._active = client.redis.register_script(_ACTIVE)
        self._lift = client.redis.register_script(_LIFT)

    async def lock(self, target: Target, growth: Growth) -> Lockout:
        """Lock it out, for longer than the last time; return the lock-out there is when it is locked out already."""
        longest = max(growth.first, growth.longest)
        names = [_stored(target.username), _stored(target.address)]
        milliseconds = [round(seconds * 1000) for seconds in (growth.first, longest, growth.memory)]
        ends, times, number = await self._call(self._lock, _MOST, target.key, *names, *milliseconds)
        return Lockout(target, int(ends), int(times), int(number))

    async def after(self, number: int, limit: int) -> Sequence[Lockout]:
        """Return up to `limit` that were made or lifted behind this number, in order."""
        return [_lockout(row) for row in await self._call(self._after, number, limit)]

    async def active(self, limit: int) -> Sequence[Lockout]:
        """Return up to `limit` that hold now, newest first."""
        return [_lockout(row) for row in await self._call(self._active, limit)]

    async def lift(self, key: str) -> bool:
        """End it and forget how often it was; False where there is none that holds."""
        return bool(await self._call(self._lift, _MOST, key, _LIFTED_SECONDS))

    async def _call(self, script: Any, *args: Any) -> Any:  # noqa: ANN401 - a script of the driver, and what it returns
        return await self._client.call(lambda _: script(keys=[self._client.keys.lockouts], args=args))


def _stored(name: str) -> bytes:
    return name.encode(errors="surrogatepass")


def _lockout(row: Sequence[bytes]) -> Lockout:
    key, username, address, ends, times, number = row
    names = (username.decode(errors="surrogatepass"), address.decode(errors="surrogatepass"))
    return Lockout(Target(key.decode(), *names), int(ends), int(times), int(float(number)))
