"""Word of what changed, over a stream in Redis: told at once to whoever listens, and kept for those who were away.

A follower reads with XREAD BLOCK, which wakes it as fast as a subscription would, and goes on behind the last entry it has seen, so
that a lost connection costs nothing. Entries have two fields, `scope` and `name`. Every process reads everything; nobody
acknowledges; the stream is bounded in length.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import structlog
from redis import exceptions

from companion.core.errors import CompanionError
from companion.core.model import Notice, Scope
from companion.stores.redis.client import RedisClient

log = structlog.get_logger("companion.stores.redis")

T = TypeVar("T")

_KEPT: Final = 10_000
_READ: Final = 1000
_BACKOFF: Final = (0.1, 2.0)
_EVERYTHING: Final = (Notice(Scope.EVERYTHING),)
_START: Final = (0, 0)

Id = tuple[int, int]


class RedisNotices:
    """The port `Notices`."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._key = client.keys.notices
        # Shorter than the command timeout: an answer that is late is then known to be.
        self._block = max(1, int(client.timeout * 500))

    async def announce(self, notice: Notice) -> None:
        """Tell every follower, those who are away when they come back."""
        fields = {"scope": notice.scope.value, "name": notice.name}
        await self._client.call(lambda redis: redis.xadd(self._key, fields, maxlen=_KEPT, approximate=True))

    async def follow(self) -> AsyncIterator[Sequence[Notice]]:
        """Yield what is announced; EVERYTHING when something may have been trimmed, or lost with Redis' data."""
        last = (await self._patiently(self._state))[0][1]
        yield ()
        while True:
            (entries, failed) = await self._patiently(lambda redis, last=last: self._read(redis, last))  # type: ignore[misc]
            if failed or len(entries) == _READ:
                (first, newest), _ = await self._patiently(self._state)
                if newest < last or (first is not None and first > last):
                    log.warning("notices were missed: everything is taken for changed")
                    last = newest
                    yield _EVERYTHING
                    continue
            if entries:
                last = _id(entries[-1][0])
                yield [_notice(fields) for _, fields in entries]

    async def _read(self, redis: Any, last: Id) -> list[Any]:  # noqa: ANN401 - Redis or RedisCluster
        answer = await redis.xread({self._key: f"{last[0]}-{last[1]}"}, count=_READ, block=self._block)
        return list(answer[0][1]) if answer else []

    async def _state(self, redis: Any) -> tuple[Id | None, Id]:  # noqa: ANN401 - Redis or RedisCluster
        """Return the id of the first entry, if older ones were trimmed, and the newest id that was ever given."""
        try:
            found = await redis.xinfo_stream(self._key)
        except exceptions.ResponseError:
            return None, _START  # there is no such stream (yet, or any more)
        # Before Redis 7 nobody counts: then older ones may well have been trimmed.
        trimmed = found.get("entries-added", found["length"] + 1) > found["length"]
        first = found["first-entry"]
        return (_id(first[0]) if first and trimmed else None), _id(found["last-generated-id"])

    async def _patiently(self, work: Callable[[Any], Awaitable[T]]) -> tuple[T, bool]:
        """Do the work as soon as Redis answers; tell also whether it failed before."""
        pause, longest = _BACKOFF
        failed = False
        while True:
            try:
                return await self._client.call(work), failed
            except CompanionError as problem:
                if not failed:
                    log.warning("notices are not heard while redis is away", problem=str(problem))
                failed = True
                await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing
                pause = min(pause * 2, longest)


def _id(text: bytes | str) -> Id:
    milliseconds, _, number = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(milliseconds), int(number)


def _notice(fields: dict[bytes, bytes]) -> Notice:
    """Return the notice; what is not understood, as of a newer release, may mean anything."""
    try:
        return Notice(Scope(fields[b"scope"].decode()), fields[b"name"].decode())
    except (KeyError, ValueError):
        return _EVERYTHING[0]
