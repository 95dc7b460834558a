"""The port `Observed`: what is counted of the inbox, and of MongoDB's change stream."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from companion.core.model import Audit
from companion.core.ports import Observed, Seen
from companion.core.stats import Counting, Whom
from companion.stores.mongo import MongoConfig, open_mongo
from companion.stores.mongo.observed import decisions, entities
from companion.stores.mongo.watching import observed_scope
from companion.stores.redis.facts import RedisFacts
from companion.stores.redis.inbox import RedisInbox
from tests.support import mongo, redis
from tests.support.adapters import ADAPTERS
from tests.support.entities import change

PATIENCE: Final = 30.0
COUNTING: Final = Counting(Whom)


@dataclass(frozen=True, slots=True)
class Place:
    """Where things happen, and how a reader of them is made."""

    open: Callable[[], Observed]
    happens: Callable[[str], Awaitable[None]]


@contextlib.asynccontextmanager
async def inbox(folder: Path) -> AsyncIterator[Place]:
    async with ADAPTERS["embedded"].make(folder)() as store:

        async def happens(name: str) -> None:
            await store.inbox.append([change(name, after={"owner": name})])

        yield Place(lambda: store.observed(COUNTING)[0], happens)


@contextlib.asynccontextmanager
async def facts(folder: Path) -> AsyncIterator[Place]:
    async with redis.adapter(redis.debian_redis)(folder)() as ports:
        taking = RedisInbox(ports.client, COUNTING, 1000)

        async def happens(name: str) -> None:
            await taking.append([change(name, after={"owner": name})])

        yield Place(lambda: RedisFacts(ports.client), happens)


@contextlib.asynccontextmanager
async def stream(folder: Path) -> AsyncIterator[Place]:
    del folder
    name = f"test-{secrets.token_hex(6)}"
    async with open_mongo(MongoConfig(mongo.shared_url(), name, 5.0)) as client:
        devices, statistics = client.driver[f"{name}-thing"].devices, client.driver[f"{name}-thing"].stats
        scope = observed_scope((f"{name}-thing.*",), name, f"{name}-thing.stats")
        assert scope is not None

        async def happens(name: str) -> None:
            await statistics.insert_one({"owner": "of what is counted itself"})
            await devices.insert_one({"_id": name, "owner": name})

        yield Place(lambda: entities(client, scope, COUNTING), happens)


async def decided(store: Any, name: str) -> None:
    """Audit a login."""
    await store.audits.append([Audit(1000, "auth", "allow", "password", name)])


@contextlib.asynccontextmanager
async def audits(folder: Path) -> AsyncIterator[Place]:
    async with ADAPTERS["embedded"].make(folder)() as store:
        yield Place(lambda: store.observed(Counting(decisions=True))[1], lambda name: decided(store, name))


@contextlib.asynccontextmanager
async def audit_stream(folder: Path) -> AsyncIterator[Place]:
    async with mongo.adapter(folder)() as ports:
        yield Place(lambda: decisions(ports.client), lambda name: decided(ports, name))


PLACES: Final[Mapping[str, Callable[[Path], AbstractAsyncContextManager[Place]]]] = {
    "inbox": inbox,
    "facts": facts,
    "stream": stream,
    "audits": audits,
    "audit stream": audit_stream,
}


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with PLACES[request.param](tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def reading(place: Place, position: str | None) -> AsyncIterator[tuple[Observed, str | None]]:
    """Open a reader behind this position until the block ends; yield it, and the position to be kept."""
    source = place.open()
    first = await source.open(position)
    yield source, first if first is not None else position
    await source.close()


async def take(source: Observed, count: int, limit: int = 10) -> Sequence[Seen]:
    """Read until there are so many facts."""
    found: list[Seen] = []
    async with asyncio.timeout(PATIENCE):
        while sum(one.fact is not None for one in found) < count:
            page = await source.read(limit)
            assert len(page) <= limit
            found += page
    return found


def owners(seen: Sequence[Seen]) -> Sequence[str]:
    return [one.fact.subjects[-1].owner for one in seen if one.fact is not None]


async def test_everything_in_order_once(place: Place) -> None:
    """What happens is read in its order, once, however small the portions; with nothing new, nothing."""
    async with reading(place, None) as (source, _):
        for number in range(7):
            await place.happens(f"{number}")
        seen = await take(source, 7, limit=3)
        assert owners(seen) == [f"{number}" for number in range(7)]
        assert len({one.position for one in seen}) == len(seen)
        assert owners(await source.read(10)) == []
        await place.happens("7")
        assert owners(await take(source, 1)) == ["7"]


async def test_behind_a_position(place: Place) -> None:
    """Another reader goes on behind any position that one has told, also behind the first; what is settled never comes again."""
    async with reading(place, None) as (source, first):
        for number in range(5):
            await place.happens(f"{number}")
        seen = await take(source, 5)
    for position, rest in ((first, 5), (seen[0].position, 4), (seen[2].position, 2)):
        async with reading(place, position) as (again, _):
            assert owners(await take(again, rest)) == [f"{number}" for number in range(5 - rest, 5)]
    async with reading(place, seen[2].position) as (again, _):
        await again.settled(seen[2].position)
        assert owners(await take(again, 2)) == ["3", "4"]
        assert again.lost == 0


async def test_published_and_dead_ones_are_counted(tmp_path: Path) -> None:
    """What became of a change since it was taken does not matter; an event that came twice is there once."""
    async with ADAPTERS["embedded"].make(tmp_path)() as store:
        await store.inbox.append([change(name, after={"owner": name}) for name in ("a", "b", "a", "c")])
        await store.inbox.acknowledge([(1, 1)])
        await store.inbox.bury(2, "refused")
        async with reading(Place(lambda: store.observed(COUNTING)[0], _nothing), None) as (source, _):
            assert owners(await take(source, 3)) == ["a", "b", "c"]


async def test_pruned_records_give_no_numbers_back(tmp_path: Path) -> None:
    """When every record was pruned, the next ones are counted all the same."""
    async with ADAPTERS["embedded"].make(tmp_path)() as store:
        source = store.observed(Counting(decisions=True))[1]
        await decided(store, "a")
        (seen,) = await take(source, 1)
        assert await store.audits.prune(2000, 10) == 1
        await decided(store, "b")
        await source.open(seen.position)
        assert owners(await take(source, 1)) == ["b"]


async def test_only_new_records_are_decisions(tmp_path: Path) -> None:
    """That records are removed from MongoDB is no decision."""
    async with (
        mongo.adapter(tmp_path)() as ports,
        reading(Place(lambda: decisions(ports.client), _nothing), None) as (
            source,
            _,
        ),
    ):
        await decided(ports, "a")
        await ports.audits.prune(2000, 10)
        await decided(ports, "b")
        assert owners(await take(source, 2)) == ["a", "b"]
        assert source.lost == 0


async def _nothing(_: str) -> None: ...


async def taken(client: Any, *names: str, facts: int = 1000) -> None:
    await RedisInbox(client, COUNTING, facts).append([change(name, after={"owner": name}) for name in names])


async def test_facts_outlive_their_changes(tmp_path: Path) -> None:
    """A fact is there when its change is published and gone, and once when its event comes twice."""
    async with redis.adapter(redis.debian_redis)(tmp_path)() as ports:
        await taken(ports.client, "a", "b", "a")
        await taken(ports.client, "b", "c")
        items = await ports.inbox.read(0, 10)
        await ports.inbox.acknowledge([(item.position, 1) for item in items])
        async with reading(Place(lambda: RedisFacts(ports.client), _nothing), None) as (source, _):
            seen = await take(source, 3)
        assert owners(seen) == ["a", "b", "c"]
        assert seen[0].fact == COUNTING.fact(change("a", after={"owner": "a"}))
        await source.settled(seen[1].position)
        assert await ports.client.redis.xlen(ports.client.keys.facts) == 1


async def test_facts_beyond_the_bound_are_told(tmp_path: Path) -> None:
    """When nobody counts, facts beyond the bound are kept out and reported, once; the changes themselves are all taken."""
    async with redis.adapter(redis.debian_redis)(tmp_path)() as ports:
        await taken(ports.client, "a", "b", facts=3)
        await taken(ports.client, "c", "d", "e", facts=3)
        await taken(ports.client, "f", facts=3)
        async with reading(Place(lambda: RedisFacts(ports.client), _nothing), None) as (source, _):
            assert owners(await take(source, 3)) == ["a", "b", "c"]
            for _round in range(2):
                assert await source.read(10) == []
                assert source.lost == 3
        assert len(await ports.inbox.read(0, 10)) == 6


async def test_a_fact_that_cannot_be_read(tmp_path: Path) -> None:
    """What another release may have written is counted as lost, and those behind it are read."""
    async with redis.adapter(redis.debian_redis)(tmp_path)() as ports:
        await ports.client.redis.xadd(ports.client.keys.facts, {"fact": b"{"}, id="1-0")
        await ports.client.redis.xadd(ports.client.keys.facts, {"other": b""}, id="2-0")
        await taken(ports.client, "a")
        async with reading(Place(lambda: RedisFacts(ports.client), _nothing), None) as (source, _):
            assert owners(await take(source, 1)) == ["a"]
            assert source.lost == 2


async def test_without_an_observer_no_facts(tmp_path: Path) -> None:
    """Where nothing is counted, nothing is kept to be counted."""
    async with redis.adapter(redis.debian_redis)(tmp_path)() as ports:
        await ports.inbox.append([change("a")])
        assert await ports.client.redis.exists(ports.client.keys.facts, ports.client.keys.facts_lost) == 0


async def test_a_lost_history(tmp_path: Path) -> None:
    """A place that the server does not know is said to be lost, once, and counting goes on from now."""
    async with stream(tmp_path) as place:
        bad = '{"token": {"_data": "8200"}, "time": 1}'
        async with reading(place, bad) as (source, _):
            while source.lost == 0:
                await source.read(10)
            await place.happens("after")
            assert owners(await take(source, 1)) == ["after"]
            assert source.lost == 1
