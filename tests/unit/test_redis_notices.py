"""Word of what changed, over a real Redis that is killed, flushed, trimmed and cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis as blocking

from companion.core.model import Notice, Scope
from tests.support.proxy import proxied
from tests.support.redis import RedisPorts, opened, redis_server
from tests.support.waiting import wait_until

EVERYTHING = Notice(Scope.EVERYTHING)
TIMEOUT = 0.4


def named(name: str) -> Notice:
    return Notice(Scope.ACCOUNT, name)


@contextlib.asynccontextmanager
async def following(ports: RedisPorts) -> AsyncIterator[list[Notice]]:
    """Collect what is told, from when the follower listens."""
    told: list[Notice] = []
    listens = asyncio.Event()

    async def listen() -> None:
        async with contextlib.aclosing(ports.notices.follow()) as words:  # type: ignore[type-var]
            async for notices in words:
                told.extend(notices)
                listens.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(listen())
        await asyncio.wait_for(listens.wait(), 10)
        yield told
        task.cancel()


async def test_in_order_and_once(tmp_path: Path) -> None:
    """While nothing goes wrong everything is told once, in order, whatever names look like."""
    names = [f"n{number} é 🦔 *" for number in range(1500)]
    async with redis_server(tmp_path) as server, opened(server.url, "p") as ports, following(ports) as told:
        for start in range(0, 1500, 100):
            await asyncio.gather(*(ports.notices.announce(named(name)) for name in names[start : start + 100]))
        await wait_until(lambda: len(told) >= 1500, 10, "everything is told")
        assert sorted(told, key=str) == sorted(map(named, names), key=str)


async def test_nothing_is_missed_while_the_connection_is_cut(tmp_path: Path) -> None:
    """What was announced while a follower was cut off is told when it is back; nothing else is."""
    async with (
        redis_server(tmp_path) as server,
        proxied(server.port) as proxy,
        opened(server.url, "p") as ports,
        opened(f"redis://127.0.0.1:{proxy.port}/0", "p", timeout=TIMEOUT) as away,
        following(away) as told,
    ):
        await ports.notices.announce(named("before"))
        await wait_until(lambda: told == [named("before")], 10, "the first is told")
        for fault in (proxy.reset, proxy.swallow):
            told.clear()
            fault()
            await asyncio.sleep(3 * TIMEOUT)
            for number in range(3):
                await ports.notices.announce(named(f"{number}"))
            proxy.heal()
            await wait_until(lambda: len(told) >= 3, 20, "what was missed is told")
            assert told == [named("0"), named("1"), named("2")]


async def test_a_server_killed_and_back(tmp_path: Path) -> None:
    """After `kill -9` and a restart with its data, following goes on."""
    async with redis_server(tmp_path) as server, opened(server.url, "p") as ports, following(ports) as told:
        await ports.notices.announce(named("before"))
        await wait_until(lambda: told == [named("before")], 10, "the first is told")
        server.kill()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.start)
        async with opened(server.url, "p") as later:
            await later.notices.announce(named("after"))
        await wait_until(lambda: named("after") in told, 20, "what came after the restart is told")
        assert EVERYTHING not in told


@pytest.mark.parametrize("loss", ["flushed", "trimmed", "restarted empty"])
async def test_a_gap_is_told(tmp_path: Path, loss: str) -> None:
    """Where entries that nobody has seen are gone, everything counts as changed; then following goes on."""
    async with (
        redis_server(tmp_path) as server,
        proxied(server.port) as proxy,
        opened(server.url, "p") as ports,
        opened(f"redis://127.0.0.1:{proxy.port}/0", "p", timeout=TIMEOUT) as away,
        following(away) as told,
    ):
        await ports.notices.announce(named("seen"))
        await wait_until(lambda: told == [named("seen")], 10, "the first is told")
        proxy.swallow()
        await asyncio.sleep(3 * TIMEOUT)
        await ports.notices.announce(named("unseen"))
        with blocking.Redis(port=server.port) as admin:
            if loss == "trimmed":
                await ports.notices.announce(named("kept"))
                admin.xtrim(ports.client.keys.notices, maxlen=1, approximate=False)
            else:
                admin.flushall()
            if loss == "restarted empty":
                admin.xadd(ports.client.keys.notices, {"scope": "account", "name": "old"}, id="1-1")
        proxy.heal()
        await wait_until(lambda: EVERYTHING in told, 20, "the gap is told")
        await ports.notices.announce(named("later"))
        await wait_until(lambda: told[-1] == named("later"), 20, "following goes on")


async def test_what_is_not_understood_means_everything(tmp_path: Path) -> None:
    """A newer release may speak of things that this one does not know."""
    async with redis_server(tmp_path) as server, opened(server.url, "p") as ports, following(ports) as told:
        with blocking.Redis(port=server.port) as admin:
            admin.xadd(ports.client.keys.notices, {"scope": "tenant", "name": "x"})
            admin.xadd(ports.client.keys.notices, {"what": "x"})
        await wait_until(lambda: told == [EVERYTHING, EVERYTHING], 10, "both are told")
