"""What the mirror in Redis leaves behind of generations that were swept, and of entities that are gone: no key at all."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest

from companion.core.errors import Forgotten
from companion.core.ports import Copy
from companion.stores.redis import mirror as mirror_module
from companion.stores.redis.client import RedisClient
from companion.stores.redis.mirror import RedisMirror
from tests.support import redis
from tests.support.eventually import eventually

WHAT = "identity.users"


@pytest.fixture
async def mirror() -> AsyncIterator[RedisMirror]:
    server = redis.shared_server(redis.debian_redis())
    async with redis.opened(server.url, f"test-{secrets.token_hex(4)}") as ports:
        yield ports.mirror


def here(number: int) -> Copy:
    return Copy(f"{number}", 1, {"id": f"{number}"}, (("name", f"{number}"),))


def gone(number: int) -> Copy:
    return Copy(f"{number}", 2, None)


async def left(mirror: RedisMirror, generation: int) -> set[str]:
    """Return the keys of a generation, without what they all begin with."""
    client: RedisClient = mirror._client
    begin = f"{client.keys.mirror(WHAT)}:{generation}:"
    keys = [key.decode() async for key in client.redis.scan_iter(match="*", count=1000)]
    return {key.removeprefix(begin) for key in keys if key.startswith(begin)}


async def test_nothing_is_left(mirror: RedisMirror) -> None:
    """Whatever stood in it: copies, those that are gone, the number; and neither does a late put bring something back."""
    old = await mirror.begin(WHAT, 1)
    await mirror.put(WHAT, [here(number) for number in range(20)], 1, old, number=1)
    await mirror.put(WHAT, [gone(number) for number in range(10, 30)], 1, old, number=2)
    assert {"doc:1", "doc:15", "doc:25", "by:name:1", "ids", "digests", "gone", "number"} <= await left(mirror, old)
    await mirror.promote(WHAT, await mirror.begin(WHAT, 1), 1)
    swept = 0
    while some := await mirror.sweep(WHAT, 7, 1):
        assert some <= 7
        swept += some
    assert swept == 30
    assert await left(mirror, old) == set()
    with pytest.raises(Forgotten):
        await mirror.put(WHAT, [here(1)], 1, old, number=1)
    assert await left(mirror, old) == set()


async def test_who_is_gone_is_forgotten_in_time(mirror: RedisMirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of those that are gone does not grow for ever; who came back is not in it."""
    await mirror.put(WHAT, [gone(9)], 1)
    await mirror.put(WHAT, [Copy("9", 3, {"id": "9"})], 1)
    assert await left(mirror, 0) == {"doc:9", "ids", "digests"}
    monkeypatch.setattr(mirror_module, "_GONE_MILLISECONDS", 50)
    await mirror.put(WHAT, [gone(number) for number in range(5)], 1)
    assert "gone" in await left(mirror, 0)

    async def forgotten() -> bool:
        await mirror.put(WHAT, [Copy("9", 3, {"id": "9"})], 1)
        return await left(mirror, 0) == {"doc:9", "ids", "digests"}

    await eventually(forgotten, 30, "all are forgotten")
