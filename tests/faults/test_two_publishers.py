"""Two publishers over one store: one is paused past its lease, or killed, and the other goes on where it was."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.faults.broker import MortalBroker
from tests.faults.ledger import judge
from tests.faults.listener import Listener, listening
from tests.faults.poster import Poster
from tests.faults.service import Service
from tests.faults.workload import Planned, plan
from tests.support.eventually import eventually
from tests.support.mongo import mongo_server
from tests.support.production import settings_of
from tests.support.redis import redis_server
from tests.support.waiting import wait_until

LEASE: Final = 2.0
ROUNDS: Final = 12
"""At most: one that is paused with nothing to save is not fenced off, and paused again."""

PER_ROUND: Final = 600


@dataclass(frozen=True, slots=True)
class Pair:
    """Two publishers, what is posted to either of them, and what arrives."""

    services: tuple[Service, Service]
    posters: tuple[Poster, Poster]
    listener: Listener
    broker: MortalBroker

    async def leader(self) -> Service:
        """Return the one that publishes."""

        async def found() -> Service | None:
            for service in self.services:
                if service.up and await service.metric("companion_lease_held") == 1:
                    return service
            return None

        return await eventually(found, 30, "somebody leads")

    def other(self, service: Service) -> Service:
        (other,) = {*self.services} - {service}
        return other

    async def post(self, changes: Sequence[Planned], to: Service) -> None:
        """Post in small batches, one after the other."""
        poster = self.posters[self.services.index(to)]
        for start in range(0, len(changes), 20):
            await poster.post(changes[start : start + 20])

    def taken(self) -> Sequence[Planned]:
        return [*self.posters[0].taken, *self.posters[1].taken]

    async def everything_arrives(self) -> None:
        wanted = {(topic, change.event_id) for change in self.taken() for topic in change.topics}
        await wait_until(
            lambda: wanted <= {(one.topic, one.event_id) for one in self.listener.arrivals()}, 60, "all arrives"
        )

    def check(self) -> None:
        verdict = judge(self.taken(), self.listener.arrivals(), {}, self.broker.lives)
        assert (verdict.lost, verdict.out_of_order) == (0, 0), verdict.examples


@contextlib.asynccontextmanager
async def paired(folder: Path, settings: dict[str, Any]) -> AsyncIterator[Pair]:
    """Run two publishers over the same store, with a broker and a subscriber."""
    async with aiohttp.ClientSession() as http, MortalBroker() as broker, contextlib.AsyncExitStack() as stack:
        services = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            service = Service(folder / name, broker.port, http, **settings, publisher_lease=LEASE)
            await service.start()
            stack.push_async_callback(_end, service)
            services.append(service)
        listener = await stack.enter_async_context(listening(broker.port))
        one, two = services
        yield Pair((one, two), (Poster(one.url, http), Poster(two.url, http)), listener, broker)


async def _end(service: Service) -> None:
    if service.running:
        service.thaw()
        await service.kill()


async def gave_up(service: Service) -> bool:
    return await service.metric("companion_lease_held") == 0


@pytest.fixture
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """Run the pair on each profile."""
    async with contextlib.AsyncExitStack() as stack:
        settings: dict[str, Any] = {"data_dir": tmp_path / "shared"}
        if request.param == "production":
            (tmp_path / "mongo").mkdir()
            mongo = await stack.enter_async_context(mongo_server(tmp_path / "mongo"))
            redis = await stack.enter_async_context(redis_server(tmp_path / "redis"))
            settings |= settings_of(mongo.url, redis.url)
        yield await stack.enter_async_context(paired(tmp_path, settings))


# A process that is paused in the middle of a write to SQLite keeps the lock of the file, and nobody else writes meanwhile.
@pytest.mark.parametrize("pair", ["production"], indirect=True)
async def test_one_paused_past_its_lease(pair: Pair) -> None:
    """The other takes over; the paused one, continued, is fenced off: nothing is lost, nothing comes late for the first time."""
    (changes,) = plan(4 * ROUNDS * PER_ROUND, entities=40, shared=False)[:1]
    fenced = 0
    for number in range(ROUNDS):
        some = changes[number * PER_ROUND : (number + 1) * PER_ROUND]
        paused = await pair.leader()
        other = pair.other(paused)
        before = pair.listener.count
        posting = asyncio.ensure_future(pair.post(some, other))
        await wait_until(lambda before=before: pair.listener.count > before + 50, 20, "publishing goes on")  # type: ignore[misc]
        begun = time.monotonic()
        paused.freeze()
        assert await pair.leader() is other
        assert time.monotonic() - begun < 2 * LEASE + 1
        paused.thaw()
        await posting
        await pair.everything_arrives()
        await eventually(lambda paused=paused: gave_up(paused), 20, "it knows that it has lost its lease")  # type: ignore[misc]
        fenced += int(await paused.metric("companion_fenced_total"))
        if fenced:
            break
    pair.check()
    assert fenced > 0


@pytest.mark.parametrize("pair", ["embedded", "production"], indirect=True)
async def test_one_killed(pair: Pair) -> None:
    """The other takes over when the lease of the dead one ends, and publishes what was left."""
    (changes,) = plan(12 * PER_ROUND, entities=40, shared=False)[:1]
    killed = await pair.leader()
    other = pair.other(killed)
    await pair.post(changes[:PER_ROUND], other)
    before = pair.listener.count
    posting = asyncio.ensure_future(pair.post(changes[PER_ROUND:], other))
    await wait_until(lambda: pair.listener.count > before + 50, 20, "publishing goes on")
    begun = time.monotonic()
    await killed.kill()
    assert await pair.leader() is other
    assert time.monotonic() - begun < 2 * LEASE + 1
    await posting
    await pair.everything_arrives()
    pair.check()
