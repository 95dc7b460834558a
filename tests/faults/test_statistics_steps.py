"""Counting is exact wherever it is interrupted: every store call of it fails once before it is made, and once after."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import pytest

from companion.core.errors import Fenced, Transient
from companion.core.ports import Statistics
from companion.core.stats import Calendar, Slot
from companion.stores.embedded.database import Database
from companion.stores.embedded.stats import EmbeddedStatistics
from companion.stores.mongo import MongoClient
from companion.stores.mongo.stats import MongoStats
from companion.stores.production import ProductionStore
from companion.stores.redis.client import RedisClient
from companion.stores.redis.stats import RedisTally
from companion.stores.statistics import BufferedStatistics
from tests.support.adapters import ADAPTERS

READER: Final = "reader"
CHANGES: Final = 7
BATCH: Final = 2
FLUSH_EVERY: Final = 2
CALLS: Final = 60
"""More store calls than the scenario makes."""


@pytest.fixture(params=["embedded", "production"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    async with ADAPTERS[request.param].make(tmp_path)() as opened:
        yield opened


@pytest.fixture
async def production(tmp_path: Path) -> AsyncIterator[ProductionStore]:
    async with ADAPTERS["production"].make(tmp_path)() as store:
        yield store


class Dead(Exception):
    """The process was killed here."""


class Fault:
    """Lets the store call of this number fail, after it was made or without that; -1 for none."""

    def __init__(self, number: int, *, after: bool, error: type[Exception]) -> None:
        self.left = number
        self._after = after
        self._error = error

    def statistics(self, store: Any) -> Statistics:
        """Return the statistics of another process over the data of this store; what the port keeps is not in its memory."""
        own = store.statistics
        if isinstance(own, EmbeddedStatistics):
            return EmbeddedStatistics(cast("Database", Faulty(own._database, self)))
        redis, client = (Faulty(one._client, self) for one in (own._tally, own._stats))
        tally = RedisTally(cast("RedisClient", redis))
        return BufferedStatistics(tally, MongoStats(cast("MongoClient", client), own._stats._stats.full_name))

    async def make(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        self.left -= 1
        if self.left == 0 and not self._after:
            raise self._error
        answer = await call(*args)
        if self.left == 0:
            raise self._error
        return answer


class Faulty:
    """A client, or a database, whose calls the fault befalls; others that use it are spared."""

    def __init__(self, client: Any, fault: Fault) -> None:
        self._client = client
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def call(self, *args: Any) -> Any:
        return await self._fault.make(self._client.call, *args)

    async def write(self, *args: Any) -> Any:
        return await self._fault.make(self._client.write, *args)


def slot(number: int) -> Slot:
    return Slot("o", "K", "", 2026, 1, 1 + number % 3, number % 2)


WANTED: Final = {
    (day, hour): sum(1 for number in range(CHANGES) if slot(number)[5:] == (day, hour))
    for day in (1, 2, 3)
    for hour in (0, 1)
}


async def until_made(call: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat the call until it was made, as an observer does."""
    while True:
        with contextlib.suppress(Transient):
            return await call()


async def count(statistics: Statistics, fence: int, until: int = CHANGES) -> None:
    """Count what is left of the changes `0` to `until`, a batch a step, with a flush now and then and at the end."""
    try:
        positions = await statistics.claim(fence)
    except Transient:
        raise Fenced from None  # the claim may have been made: another lease is asked for
    done, step = int(positions.get(READER, "0")), 0
    while done < until:
        batch = range(done, min(done + BATCH, until))
        added: dict[Slot, int] = {}
        for number in batch:
            added[slot(number)] = added.get(slot(number), 0) + 1
        step += 1
        await until_made(lambda: statistics.apply(fence, step, READER, str(batch.stop), added))  # noqa: B023 - called at once
        done = batch.stop
        if step % (FLUSH_EVERY + 1) == FLUSH_EVERY:
            step += 1
            await until_made(lambda: statistics.flush(fence, step))  # noqa: B023 - likewise
    for last in (step + 1, step + 2):  # what an earlier life has set aside comes first, alone
        await until_made(lambda: statistics.flush(fence, last))  # noqa: B023 - likewise


async def found(store: Any) -> Mapping[tuple[int, int], int]:
    day = dt.date(2026, 1, 1)
    stats = await store.statistics.read("o", Calendar.DAILY, day, day + dt.timedelta(9))
    return {(stat.bucket.day, hour): stat.values[hour] for stat in stats for hour in (0, 1)}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_killed_at_every_step(store: Any, *, after: bool) -> None:
    """A process that dies at any store call is followed by one that ends with the same counters as an undisturbed run."""
    for number in range(1, CALLS):
        fault = Fault(number, after=after, error=Dead)
        with contextlib.suppress(Dead):
            await count(fault.statistics(store), number * 10)
        await count(store.statistics, number * 10 + 1)
        assert await found(store) == {place: value * number for place, value in WANTED.items()}, number
        if fault.left > 0:
            return
        await begin_again(store.statistics, number * 10 + 2)
    raise AssertionError("the scenario makes more calls than that")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_every_call_repeated(store: Any, *, after: bool) -> None:
    """A call whose answer is lost is repeated by the same process, and counts once, whether it was made or not."""
    for number in range(1, CALLS):
        fault = Fault(number, after=after, error=Transient)
        await persist(fault.statistics(store), number * 10)
        assert await found(store) == {place: value * number for place, value in WANTED.items()}, number
        if fault.left > 0:
            return
        await begin_again(store.statistics, number * 10 + 5)
    raise AssertionError("the scenario makes more calls than that")


async def persist(statistics: Statistics, fence: int) -> None:
    """Count to the end, under a new lease whenever the old one is refused."""
    for lease in range(fence, fence + 5):
        with contextlib.suppress(Fenced):
            return await count(statistics, lease)
    raise AssertionError("refused again and again")


async def begin_again(statistics: Statistics, fence: int) -> None:
    """Set the reader back to its beginning, for the next round."""
    await statistics.claim(fence)
    await statistics.apply(fence, 1, READER, "0", {slot(0): 0})
    await statistics.flush(fence, 2)


async def saved(store: ProductionStore) -> Sequence[tuple[str, bytes | None]]:
    """Return what Redis has of the statistics."""
    redis, keys = store._redis.redis, store._redis.keys
    return [(key, await redis.dump(key)) for key in (keys.stats, keys.stats_live, keys.stats_frozen)]


async def restore(store: ProductionStore, state: Sequence[tuple[str, bytes | None]]) -> None:
    for key, value in state:
        await store._redis.redis.delete(key)
        if value is not None:
            await store._redis.redis.restore(key, 0, value)


@pytest.mark.parametrize("back_to", range(0, 9, 2))
async def test_a_redis_that_goes_back(
    production: ProductionStore, monkeypatch: pytest.MonkeyPatch, back_to: int
) -> None:
    """Redis comes back with an older state at any moment; the observer is refused, begins anew, and all totals are exact."""
    states = [await saved(production)]
    client = production._redis
    call = client.call
    calls = 0

    async def remembering(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == back_to + 8 and len(states) > back_to:
            await restore(production, states[back_to])
        answer = await call(*args)
        states.append(await saved(production))
        return answer

    monkeypatch.setattr(client, "call", remembering)
    await persist(production.statistics, 1)
    assert len(states) > back_to + 8
    assert await found(production) == WANTED


async def test_a_redis_that_has_lost_everything(production: ProductionStore) -> None:
    """Counters that were not flushed are lost with Redis, and so are their positions: their changes are counted again."""
    await count(production.statistics, 1, until=5)
    await production.statistics.claim(2)
    await production.statistics.apply(2, 1, READER, "7", {slot(5): 1, slot(6): 1})
    await restore(production, [(key, None) for key, _ in await saved(production)])
    with pytest.raises(Fenced):
        await production.statistics.apply(2, 2, READER, "8", {slot(7): 1})
    assert await production.statistics.claim(3) == {READER: "5"}
    await count(production.statistics, 4)
    assert await found(production) == WANTED
