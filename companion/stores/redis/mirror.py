"""Copies of hot entities in Redis: a key for each document, keys to find it by, and digests to compare it by.

All keys of a collection lie in one slot of a cluster, so that one script changes a document with everything that leads to it. A
document takes its JSON and about 400 bytes; a whole rebuild holds two generations for a while.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from companion.core.errors import Fenced, Forgotten, Permanent
from companion.core.ports import Copy
from companion.stores.digests import digest_of, plain_json
from companion.stores.redis.client import NAME, RedisClient

_GONE_MILLISECONDS: Final = 86_400_000
"""How long it is remembered that an entity is gone: a change that comes later than this could bring it back."""

_VERSION_DIGITS: Final = 24
_SECONDS: Final = 5.0
_IS_FENCED: Final = -1
_HAS_FORGOTTEN: Final = -2

_FENCED: Final = """
local function fenced(base, fence)
    local newest = redis.call('GET', base .. ':fence')
    if newest and tonumber(newest) > tonumber(fence) then
        return true
    end
    redis.call('SET', base .. ':fence', fence)
    return false
end
"""

_CLOCK: Final = """
local function clock()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""

_REMOVE: Final = """
local function remove(root, id)
    local doc = root .. ':doc:' .. id
    local keys = redis.call('HGET', doc, 'keys')
    if keys then
        for _, key in ipairs(cjson.decode(keys)) do
            redis.call('SREM', root .. ':by:' .. key, id)
        end
    end
    redis.call('ZREM', root .. ':ids', id)
    redis.call('ZREM', root .. ':gone', id)
    redis.call('HDEL', root .. ':digests', id)
    redis.call('DEL', doc)
end
"""

_PUT: Final = (
    _FENCED
    + _CLOCK
    + _REMOVE
    + """
local base = KEYS[1]
if fenced(base, ARGV[1]) then
    return -1
end
local live = redis.call('GET', base .. ':live') or '0'
local generation = ARGV[2]
if generation == '' then
    generation = live
elseif generation ~= live and not redis.call('ZSCORE', base .. ':old', generation) then
    -- It was swept, or lost: nobody would ever come to take away what is put there now.
    return -2
end
local root = base .. ':' .. generation
if ARGV[4] ~= '' then
    if tonumber(redis.call('GET', root .. ':number') or '0') < tonumber(ARGV[4]) - 1 then
        return -2
    end
    redis.call('SET', root .. ':number', ARGV[4])
end
local now = clock()
local forget_at = string.format('%.0f', now + tonumber(ARGV[3]))
-- A few more than can come, so that it keeps up, and no put takes long.
local over = redis.call('ZRANGEBYSCORE', root .. ':gone', '-inf', string.format('(%.0f', now), 'LIMIT', 0, 2 * (#ARGV - 4) / 5)
for _, id in ipairs(over) do
    redis.call('ZREM', root .. ':gone', id)
end
local taken = 0
for index = 5, #ARGV, 5 do
    local id, version, document, digest, keys = unpack(ARGV, index, index + 4)
    local doc = root .. ':doc:' .. id
    local known = redis.call('HGET', doc, 'version')
    if not known or known < version then
        remove(root, id)
        taken = taken + 1
        redis.call('HSET', doc, 'version', version)
        if document == '' then
            redis.call('PEXPIREAT', doc, forget_at)
            redis.call('ZADD', root .. ':gone', forget_at, id)
        else
            redis.call('HSET', doc, 'document', document, 'keys', keys)
            redis.call('ZADD', root .. ':ids', 0, id)
            redis.call('HSET', root .. ':digests', id, digest)
            for _, key in ipairs(cjson.decode(keys)) do
                redis.call('SADD', root .. ':by:' .. key, id)
            end
        end
    end
end
return taken
"""
)

_GET: Final = """
local base = KEYS[1]
if redis.call('EXISTS', base .. ':served') == 0 then
    return false
end
local root = base .. ':' .. (redis.call('GET', base .. ':live') or '0')
local ids
if ARGV[1] == 'id' then
    ids = {ARGV[2]}
else
    ids = redis.call('SMEMBERS', root .. ':by:' .. ARGV[2])
    table.sort(ids)
end
local found = {}
for _, id in ipairs(ids) do
    local doc = redis.call('HMGET', root .. ':doc:' .. id, 'version', 'document', 'keys')
    if doc[2] then
        found[#found + 1] = {id, doc[1], doc[2], doc[3]}
    end
end
return found
"""

_DIGEST: Final = """
local root = KEYS[1] .. ':' .. (redis.call('GET', KEYS[1] .. ':live') or '0')
local ids = redis.call('ZRANGEBYLEX', root .. ':ids', ARGV[1], ARGV[2])
local found = {}
for index, id in ipairs(ids) do
    found[index] = {id, redis.call('HGET', root .. ':digests', id)}
end
if ARGV[3] == 'each' then
    return found
end
local lines = {}
for index, one in ipairs(found) do
    lines[index] = one[2]
end
return redis.sha1hex(table.concat(lines, '\\n'))
"""

_BEGIN: Final = (
    _FENCED
    + """
local base = KEYS[1]
if fenced(base, ARGV[1]) then
    return -1
end
local generation = redis.call('INCR', base .. ':last')
redis.call('ZADD', base .. ':old', generation, generation)
return generation
"""
)

_PROMOTE: Final = (
    _FENCED
    + """
local base = KEYS[1]
if fenced(base, ARGV[1]) then
    return -1
end
local before = redis.call('GET', base .. ':live') or '0'
redis.call('SET', base .. ':live', ARGV[2])
redis.call('ZREM', base .. ':old', ARGV[2])
redis.call('ZADD', base .. ':old', before, before)
return 1
"""
)

_SERVE: Final = (
    _FENCED
    + _CLOCK
    + """
local base = KEYS[1]
if fenced(base, ARGV[1]) then
    return -1
end
if ARGV[4] ~= '' then
    local root = base .. ':' .. (redis.call('GET', base .. ':live') or '0')
    if tonumber(redis.call('GET', root .. ':number') or '0') < tonumber(ARGV[4]) then
        redis.call('DEL', base .. ':served')
        return -2
    end
end
local left = tonumber(ARGV[2])
if ARGV[3] ~= '' then
    left = left - math.max(0, clock() - tonumber(ARGV[3]))
end
if left >= 1 then
    redis.call('SET', base .. ':served', '1', 'PX', string.format('%.0f', left))
end
return 1
"""
)

_SWEEP: Final = (
    _FENCED
    + _REMOVE
    + """
local base = KEYS[1]
if fenced(base, ARGV[1]) then
    return -1
end
local live = redis.call('GET', base .. ':live') or '0'
local removed = 0
for _, generation in ipairs(redis.call('ZRANGEBYSCORE', base .. ':old', '-inf', '(' .. live)) do
    local root = base .. ':' .. generation
    for _, kind in ipairs({':ids', ':gone'}) do
        local ids = redis.call('ZRANGE', root .. kind, 0, tonumber(ARGV[2]) - removed - 1)
        for _, id in ipairs(ids) do
            remove(root, id)
        end
        removed = removed + #ids
        if removed >= tonumber(ARGV[2]) then
            return removed
        end
    end
    redis.call('DEL', root .. ':number')
    redis.call('ZREM', base .. ':old', generation)
end
return removed
"""
)


class RedisMirror:
    """The port `Mirror`."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._put = client.redis.register_script(_PUT)
        self._get = client.redis.register_script(_GET)
        self._digest = client.redis.register_script(_DIGEST)
        self._begin = client.redis.register_script(_BEGIN)
        self._promote = client.redis.register_script(_PROMOTE)
        self._clock = client.redis.register_script(_CLOCK + "return string.format('%.0f', clock())")
        self._serve = client.redis.register_script(_SERVE)
        self._sweep = client.redis.register_script(_SWEEP)

    async def put(
        self,
        collection: str,
        copies: Sequence[Copy],
        fence: int,
        generation: int | None = None,
        *,
        number: int | None = None,
    ) -> int:
        """Take over those that are newer than what stands here; return how many were."""
        args: list[Any] = [_or_none(generation), _GONE_MILLISECONDS, _or_none(number)]
        for one in copies:
            args += _encoded(one)
        return await self._write(self._put, collection, fence, *args)

    async def get(self, collection: str, entity_id: str) -> Copy | None:
        """Return the copy; None when there is none."""
        found = await self._read(self._get, collection, None, "id", entity_id)
        return _decoded(found[0]) if found else None

    async def find(self, collection: str, key: str, value: str) -> Sequence[Copy] | None:
        """Return the copies with this key, in the order of their ids; None when nothing may be read."""
        found = await self._read(self._get, collection, None, "key", _key(key, value))
        return None if found is None else [_decoded(one) for one in found]

    async def clock(self, collection: str) -> int:
        """Return the time of the server that has the collection."""
        return int(await self._read(self._clock, collection, None))

    async def serve(
        self, collection: str, seconds: float, fence: int, *, since: int | None = None, number: int | None = None
    ) -> None:
        """Let the copies be read for so long from now on, or from `since` on."""
        milliseconds = max(1, round(seconds * 1000))
        await self._write(self._serve, collection, fence, milliseconds, _or_none(since), _or_none(number))

    async def digest(self, collection: str, after: str, through: str | None) -> str:
        """Return one digest of all copies with an id behind `after` up to `through`."""
        answer = await self._read(self._digest, collection, _SECONDS, *_range(after, through), "all")
        return bytes(answer).decode()

    async def digests(self, collection: str, after: str, through: str | None) -> Mapping[str, str]:
        """Return the digest of each of these copies by its id."""
        answer = await self._read(self._digest, collection, _SECONDS, *_range(after, through), "each")
        return {entity_id.decode(): digest.decode() for entity_id, digest in answer}

    async def begin(self, collection: str, fence: int) -> int:
        """Begin a new generation and return its number."""
        return await self._write(self._begin, collection, fence)

    async def promote(self, collection: str, generation: int, fence: int) -> None:
        """Let this generation be the one that is read."""
        await self._write(self._promote, collection, fence, generation)

    async def sweep(self, collection: str, limit: int, fence: int) -> int:
        """Remove up to `limit` copies of older generations; return how many were."""
        return await self._write(self._sweep, collection, fence, limit)

    async def _write(self, script: Any, collection: str, fence: int, *args: Any) -> int:  # noqa: ANN401 - the driver's own
        keys = [self._client.keys.mirror(collection)]
        answer = int(await self._client.call(lambda _: script(keys=keys, args=[fence, *args]), _SECONDS))
        if answer == _IS_FENCED:
            raise Fenced(f"mirror of {collection}: fence {fence} is not the newest")
        if answer == _HAS_FORGOTTEN:
            raise Forgotten(f"{NAME}: the mirror of {collection} has lost what it was given")
        return answer

    async def _read(self, script: Any, collection: str, seconds: float | None, *args: Any) -> Any:  # noqa: ANN401 - as Redis answers
        keys = [self._client.keys.mirror(collection)]
        return await self._client.call(lambda _: script(keys=keys, args=list(args)), seconds)


def _or_none(value: int | None) -> int | str:
    return "" if value is None else value


def _key(name: str, value: str) -> str:
    return f"{name}:{value}"


def _range(after: str, through: str | None) -> tuple[bytes, bytes]:
    return (b"(" + after.encode() if after else b"-"), (b"+" if through is None else b"[" + through.encode())


def _encoded(one: Copy) -> Sequence[Any]:
    """Return the arguments of one copy. Raises `Permanent` for what cannot be written as JSON in UTF-8."""
    version = f"{one.version:0{_VERSION_DIGITS}d}"
    if one.version < 0 or len(version) > _VERSION_DIGITS:
        raise Permanent(f"{NAME}: a version is beyond {_VERSION_DIGITS} digits")
    try:
        keys = plain_json([_key(name, value) for name, value in one.keys])
        if one.document is None:
            return one.id.encode(), version, b"", b"", keys
        return one.id.encode(), version, plain_json(one.document), digest_of(one.document), keys
    except (TypeError, ValueError, msgspec.MsgspecError) as problem:
        raise Permanent(f"{NAME}: a copy cannot be stored ({type(problem).__name__})") from None


def _decoded(found: Any) -> Copy:  # noqa: ANN401 - as Redis answers: [id, version, document, keys]
    entity_id, version, document, keys = found
    pairs = (one.partition(":") for one in msgspec.json.decode(keys, type=list[str]))
    return Copy(
        entity_id.decode(),
        int(version),
        msgspec.json.decode(document),
        tuple((name, value) for name, _, value in pairs),
    )
