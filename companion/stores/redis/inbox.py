"""The inbox in Redis: a stream of changes that wait, the event ids that are known, and the dead letters.

An entry of the stream has the id `{position}-0` and one field `change`, the change as JSON. Positions are milliseconds times 1024
and grow by at least one, so they tell when a change was taken and do not come back when Redis has lost its data. The consumer group
`publisher` shows operators what is being published (XPENDING, XINFO GROUPS); its one reader at a time takes over from a dead one
with XAUTOCLAIM. Acknowledged entries are deleted at once, for their documents lie in memory; their event ids stay.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from redis import exceptions

from companion.core.errors import Permanent, Transient
from companion.core.model import Change
from companion.core.ports import Received, Taken
from companion.core.stats import Counting
from companion.stores.redis.client import NAME, RedisClient

GROUP: Final = "publisher"
_PER_MILLISECOND: Final = 1024
_MOST: Final = 2**63
_TAKE_SECONDS: Final = 5.0

_APPEND: Final = """
local time = redis.call('TIME')
local now = (time[1] * 1000 + math.floor(time[2] / 1000)) * 1024
local last = math.max(tonumber(redis.call('GET', KEYS[3]) or '0'), now - 1)
local new = 0
local lost = 0
local room = tonumber(ARGV[1])
if room > 0 then
    room = room - redis.call('XLEN', KEYS[4])
end
for index = 2, #ARGV, 3 do
    local position = string.format('%.0f', last + 1)
    if redis.call('ZADD', KEYS[2], 'NX', position, ARGV[index]) == 1 then
        last = last + 1
        new = new + 1
        redis.call('XADD', KEYS[1], position .. '-0', 'change', ARGV[index + 1])
        if ARGV[index + 2] ~= '' and new - lost <= room then
            redis.call('XADD', KEYS[4], position .. '-0', 'fact', ARGV[index + 2])
        elseif ARGV[index + 2] ~= '' then
            lost = lost + 1
        end
    end
end
if lost > 0 then
    redis.call('INCRBY', KEYS[5], lost)
end
if new > 0 then
    redis.call('SET', KEYS[3], string.format('%.0f', last))
end
return new
"""

# One script: when a reader that was stopped comes back beside its successor, neither misses what the other took.
_READ: Final = """
local wanted = tonumber(ARGV[4])
local found = {}
local cursor = ARGV[3]
repeat
    local claimed = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, cursor, 'COUNT', wanted - #found)
    cursor = claimed[1]
    for _, entry in ipairs(claimed[2]) do
        if entry and entry[2] then
            found[#found + 1] = entry
        end
    end
until cursor == '0-0' or #found >= wanted
if #found < wanted then
    local fresh = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', wanted - #found, 'STREAMS', KEYS[1], '>')
    if fresh then
        for _, entry in ipairs(fresh[1][2]) do
            found[#found + 1] = entry
        end
    end
end
return found
"""

_BURY: Final = """
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
if not entry then
    return 0
end
redis.call('ZADD', KEYS[2], ARGV[4], cjson.encode({position = ARGV[4], change = entry[2][2], reason = ARGV[3]}))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XDEL', KEYS[1], ARGV[2])
"""

_PRUNE: Final = """
local removed = 0
local offset = 0
local limit = tonumber(ARGV[2])
while removed < limit do
    local known = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', offset, limit)
    if #known == 0 then
        break
    end
    for index = 1, #known, 2 do
        if removed < limit then
            if redis.call('ZCOUNT', KEYS[2], known[index + 1], known[index + 1]) > 0 then
                offset = offset + 1
            else
                redis.call('ZREM', KEYS[1], known[index])
                redis.call('XDEL', KEYS[3], string.format('%.0f', tonumber(known[index + 1])) .. '-0')
                removed = removed + 1
            end
        end
    end
end
return removed
"""

_BACKLOG: Final = """
return redis.call('XLEN', KEYS[1]) - #redis.call('XRANGE', KEYS[1], '-', ARGV[1])
"""


class _Dead(msgspec.Struct):
    position: str
    change: str
    reason: str


class RedisInbox:
    """The port `Inbox`. With `counting`, up to `facts` facts about what it takes wait to be counted."""

    def __init__(self, client: RedisClient, counting: Counting | None = None, facts: int = 0) -> None:
        self._client = client
        self._counting = counting
        self._facts = facts
        self._consumer = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._append = client.redis.register_script(_APPEND)
        self._read = client.redis.register_script(_READ)
        self._bury = client.redis.register_script(_BURY)
        self._prune = client.redis.register_script(_PRUNE)
        self._backlog = client.redis.register_script(_BACKLOG)
        self._waits_for_disk: bool | None = None

    async def append(self, changes: Sequence[Change]) -> Taken:
        """Store all or none, each event id once.

        Durable as Redis is: with WAITAOF (Redis 7.2) it is on the disk when this returns; before that with `appendfsync always`.
        """
        if not changes:
            return Taken(0, 0)
        args: list[bytes | int] = [self._facts]
        for change in changes:
            args += _encoded(change)
            args.append(b"" if self._counting is None else msgspec.json.encode(self._counting.fact(change)))
        keys = self._client.keys
        names = [keys.inbox, keys.inbox_known, keys.inbox_last, keys.facts, keys.facts_lost]
        new = int(await self._client.call(lambda _: self._append(keys=names, args=args), _TAKE_SECONDS))
        await self._on_disk()
        return Taken(new, len(changes) - new)

    async def _on_disk(self) -> None:
        """Wait until what we wrote is synced to the append-only file, where Redis can tell."""
        if self._waits_for_disk is False:
            return
        timeout = int(_TAKE_SECONDS * 1000)
        try:
            answer = await self._client.call(
                lambda redis: redis.execute_command("WAITAOF", 1, 0, timeout), _TAKE_SECONDS + 1
            )
        except Permanent:
            # An older Redis, or one without an append-only file: `companion stores check` says what that means.
            self._waits_for_disk = False
            return
        self._waits_for_disk = True
        if not answer[0]:
            raise Transient(f"{NAME}: the changes were not synced to the disk in time")

    async def read(self, after: int, limit: int) -> Sequence[Received]:
        """Return up to `limit` changes behind `after`, in order, that are neither acknowledged nor dead."""
        args = [GROUP, self._consumer, f"{after + 1}-0", limit]

        async def ask(redis: Any) -> list[Any]:  # noqa: ANN401 - as in `RedisClient`
            try:
                return await self._ask(args)
            except exceptions.ResponseError as problem:
                if not str(problem).startswith("NOGROUP"):
                    raise
            # The first reader ever, or Redis has lost its data.
            await _make_group(redis, self._client.keys.inbox)
            return await self._ask(args)

        entries = await self._client.call(ask, _TAKE_SECONDS)
        return [_received(entry) for entry in entries if _position(entry[0]) > after]

    async def _ask(self, args: Sequence[Any]) -> list[Any]:
        return list(await self._read(keys=[self._client.keys.inbox], args=args))

    async def acknowledge(self, acknowledged: Sequence[tuple[int, int]]) -> None:
        """Let go of these changes; their event ids stay known. When it was is not kept."""
        if not acknowledged:
            return
        ids = [f"{position}-0" for position, _ in acknowledged]

        async def forget(redis: Any) -> None:  # noqa: ANN401 - as in `RedisClient`
            pipe = redis.pipeline(transaction=True)
            pipe.xack(self._client.keys.inbox, GROUP, *ids)
            pipe.xdel(self._client.keys.inbox, *ids)
            await pipe.execute()

        await self._client.call(forget, _TAKE_SECONDS)

    async def bury(self, position: int, reason: str) -> None:
        """Move the change at `position` to the dead letters."""
        keys = [self._client.keys.inbox, self._client.keys.inbox_dead]
        args = [GROUP, f"{position}-0", reason.encode(errors="replace"), position]
        await self._client.call(lambda _: self._bury(keys=keys, args=args))

    async def dead(self, *, limit: int = 1000) -> Sequence[tuple[Received, str]]:
        """Return up to `limit` dead changes with their reasons, oldest first."""
        key = self._client.keys.inbox_dead
        members = await self._client.call(lambda redis: redis.zrange(key, 0, limit - 1), _TAKE_SECONDS)
        letters = [msgspec.json.decode(member, type=_Dead) for member in members]
        return [(Received(int(one.position), _decoded(one.change.encode())), one.reason) for one in letters]

    async def backlog(self, after: int) -> int:
        """Return how many changes wait behind the position `after`."""
        keys = [self._client.keys.inbox]
        return int(await self._client.call(lambda _: self._backlog(keys=keys, args=[f"{after}-0"])))

    async def prune(self, *, through: int, before: int, limit: int, dry: bool = False) -> int:
        """Remove up to `limit` changes at or before `through` that were taken before `before` (Unix milliseconds)."""
        keys = self._client.keys
        names = [keys.inbox_known, keys.inbox_dead, keys.inbox]
        highest = min(through, min(before, _MOST // _PER_MILLISECOND) * _PER_MILLISECOND - 1)
        if dry:
            return await self._client.call(lambda redis: self._due(redis, highest, limit), _TAKE_SECONDS)
        removed = int(await self._client.call(lambda _: self._prune(keys=names, args=[highest, limit]), _TAKE_SECONDS))
        await self._client.call(self._forget_consumers)
        return removed

    async def _due(self, redis: Any, highest: int, limit: int) -> int:  # noqa: ANN401 - as in `RedisClient`
        known = await redis.zcount(self._client.keys.inbox_known, "-inf", highest)
        dead = await redis.zcount(self._client.keys.inbox_dead, "-inf", highest)
        return min(limit, max(0, int(known) - int(dead)))

    async def _forget_consumers(self, redis: Any) -> None:  # noqa: ANN401 - as in `RedisClient`
        """Remove the consumers of processes that are gone and have nothing pending."""
        try:
            consumers = await redis.xinfo_consumers(self._client.keys.inbox, GROUP)
        except exceptions.ResponseError:
            return  # nobody has ever read
        for consumer in consumers:
            idle_seconds = consumer["idle"] / 1000
            if not consumer["pending"] and idle_seconds > _FORGOTTEN_SECONDS:
                await redis.xgroup_delconsumer(self._client.keys.inbox, GROUP, consumer["name"])


_FORGOTTEN_SECONDS: Final = 3600.0


async def _make_group(redis: Any, key: str) -> None:  # noqa: ANN401 - as in `RedisClient`
    try:
        await redis.xgroup_create(key, GROUP, id="0", mkstream=True)
    except exceptions.ResponseError as problem:
        if not str(problem).startswith("BUSYGROUP"):
            raise


def _encoded(change: Change) -> tuple[bytes, bytes]:
    """Return the event id and the change. Raises `Permanent` for what cannot be written as JSON in UTF-8."""
    if not -_MOST <= change.at < _MOST:
        raise Permanent(f"{NAME}: the time of a change is beyond 64 bits")
    try:
        return change.event_id.encode(), msgspec.json.encode(change)
    except (TypeError, ValueError, msgspec.MsgspecError) as problem:
        raise Permanent(f"{NAME}: a change cannot be stored ({type(problem).__name__})") from None


def _decoded(text: bytes) -> Change:
    return msgspec.json.decode(text, type=Change)


def _position(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _received(entry: Any) -> Received:  # noqa: ANN401 - as Redis answers: [id, [field, value]]
    return Received(_position(entry[0]), _decoded(entry[1][1]))
