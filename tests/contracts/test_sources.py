"""The port `Source`: the inbox of every store, and MongoDB's change streams."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from companion.core.errors import Fenced
from companion.core.ports import Item, Source
from companion.stores.mongo.checkpoints import MongoCheckpoints
from companion.stores.mongo.client import MongoConfig, open_mongo
from companion.stores.mongo.source import MongoSource
from companion.stores.mongo.watching import scope_of
from publishers.inbox_source import InboxSource
from tests.support import mongo
from tests.support.adapters import ADAPTERS
from tests.support.entities import change

PATIENCE: Final = 20.0


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere that changes come from: a source of its own for every reader, and a way to make a change of an entity."""

    open: Callable[[], AbstractAsyncContextManager[Source]]
    happens: Callable[[str], Awaitable[None]]


@contextlib.asynccontextmanager
async def inbox(adapter: str, folder: Path) -> AsyncIterator[Place]:
    open_store = ADAPTERS[adapter].make(folder)
    async with open_store() as store:

        @contextlib.asynccontextmanager
        async def opened() -> AsyncIterator[Source]:
            async with open_store() as another:
                yield InboxSource(another.inbox, another.checkpoints)

        async def happens(name: str) -> None:
            await store.inbox.append([change(name, id=name)])

        yield Place(opened, happens)


@contextlib.asynccontextmanager
async def stream(_: str, folder: Path) -> AsyncIterator[Place]:
    del folder
    name = f"test-{secrets.token_hex(6)}"
    url = mongo.shared_url()
    async with open_mongo(MongoConfig(url, name, 5.0)) as client:
        entities = client.driver[f"{name}-thing"].devices

        @contextlib.asynccontextmanager
        async def opened() -> AsyncIterator[Source]:
            async with open_mongo(MongoConfig(url, name, 5.0)) as another:
                yield MongoSource(another, MongoCheckpoints(another), scope_of((f"{name}-thing.*",), name), 500)

        async def happens(name: str) -> None:
            await entities.insert_one({"_id": name, "owner": "alice"})

        yield Place(opened, happens)


PLACES: Final[Mapping[str, Callable[[str, Path], AbstractAsyncContextManager[Place]]]] = {
    "embedded": inbox,
    "redis": inbox,
    "valkey": inbox,
    "production": inbox,
    "mongo": stream,
}


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with PLACES[request.param](request.param, tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def reading(place: Place, fence: int) -> AsyncIterator[Source]:
    """Open a source with this fence until the block ends."""
    async with place.open() as source:
        await source.open(fence)
        yield source
        await source.close()


async def take(source: Source, count: int, limit: int = 10) -> Sequence[Item]:
    """Read until there are so many changes."""
    items: list[Item] = []
    async with asyncio.timeout(PATIENCE):
        while sum(item.change is not None for item in items) < count:
            found = await source.read(limit)
            assert len(found) <= limit
            items += found
    return items


def ids(items: Sequence[Item]) -> list[str]:
    return [item.change.id for item in items if item.change is not None]


async def test_everything_in_order_once(place: Place) -> None:
    """What happens is read in its order, once, however small the portions; each has a position and an event id of its own."""
    async with reading(place, 1) as source:
        for number in range(7):
            await place.happens(f"{number}")
        items = await take(source, 7, limit=3)
        assert ids(items) == [f"{number}" for number in range(7)]
        assert len({item.position for item in items}) == len(items)
        assert len({item.change.event_id for item in items if item.change}) == 7
        await place.happens("7")
        assert ids(await take(source, 1)) == ["7"]


async def test_nothing_new(place: Place) -> None:
    """With nothing to read, reading waits a moment and returns nothing; what happens meanwhile is not lost."""
    async with reading(place, 1) as source:
        begun = time.monotonic()
        assert ids(await source.read(10)) == []
        assert time.monotonic() - begun < 5
        asyncio.get_running_loop().call_later(
            0.05, lambda: pending.append(asyncio.ensure_future(place.happens("late")))
        )
        pending: list[Any] = []
        assert ids(await take(source, 1)) == ["late"]
        await asyncio.gather(*pending)


async def test_behind_the_saved_position(place: Place) -> None:
    """The next reader begins behind what was saved: that never comes again, all the rest does, as the same events."""
    async with reading(place, 1) as source:
        for number in range(5):
            await place.happens(f"{number}")
        first = await take(source, 5)
        await source.acknowledge([(item.position, 1000) for item in first[:2]])
        await source.save(first[1].position)
    async with reading(place, 2) as source:
        again = await take(source, 3)
    assert ids(again) == ["2", "3", "4"]
    assert [item.change for item in again] == [item.change for item in first[2:]]


async def test_the_first_start_is_kept(place: Place) -> None:
    """Who ends before anything was saved loses nothing: the next begins where this one did."""
    async with reading(place, 1):
        await place.happens("0")
    async with reading(place, 2) as source:
        assert ids(await take(source, 1)) == ["0"]


async def test_fences(place: Place) -> None:
    """Once a later reader has come, an earlier one saves nothing, and none with a lower fence begins."""
    async with reading(place, 1) as old:
        await place.happens("0")
        items = await take(old, 1)
        async with reading(place, 5):
            with pytest.raises(Fenced):
                await old.save(items[0].position)
            async with place.open() as older:
                with pytest.raises(Fenced):
                    await older.open(4)
    async with reading(place, 5) as source:
        assert ids(await take(source, 1)) == ["0"]


async def test_buried(place: Place) -> None:
    """What cannot be published is put aside, as often as it is said, and the rest goes on."""
    async with reading(place, 1) as source:
        for number in range(3):
            await place.happens(f"{number}")
        items = await take(source, 3)
        await source.bury(items[1], "nobody can take it")
        await source.bury(items[1], "nobody can take it")
        await source.save(items[1].position)
    async with reading(place, 2) as source:
        assert ids(await take(source, 1)) == ["2"]


async def test_what_it_tells_of_itself(place: Place) -> None:
    """Its name is one for a checkpoint and a metric; nothing has gone wrong; the backlog is a number or not known."""
    async with place.open() as source:
        assert source.name.isalpha()
        assert source.name.islower()
        assert not any(source.incidents.values())
        await source.open(1)
        for number in range(3):
            await place.happens(f"{number}")
        items = await take(source, 3)
        assert await source.backlog() in {3, None}
        await source.acknowledge([(item.position, 1000) for item in items])
        await source.save(items[-1].position)
        assert await source.backlog() in {0, None}
        await source.close()
        await source.close()
