"""The observer on the production profile: the inbox in Redis and MongoDB's change stream, with stores that die and come back."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.errors import CompanionError
from companion.core.model import Change, ChangeOp
from companion.core.stats import Calendar
from companion.settings import Role
from tests.support.eventually import eventually
from tests.support.mongo import MongoServer, mongo_server
from tests.support.production import settings_of
from tests.support.redis import RedisServer, redis_server
from tests.support.service import Service, serving

AT = int(dt.datetime(2026, 1, 31, 13, tzinfo=dt.UTC).timestamp() * 1000)
FIRST, LAST = dt.date(2020, 1, 1), dt.date(2119, 12, 31)
TAKEN, INSERTED = "SHOP_COUNT__UPDATE_ORDERS", "THING_COUNT__CREATE_DEVICES"
SECONDS = 60.0


class Stores:
    """Servers of one test's own, and the settings of a service over them."""

    def __init__(self, mongo: MongoServer, redis: RedisServer) -> None:
        self.mongo = mongo
        self.redis = redis
        own = {
            "observer": True,
            "observer_flush": 0.2,
            "observer_lease": 1.0,
            "stats_whom": (),
            "changes_watch": ("thing.*",),
        }
        self.settings: dict[str, Any] = {**settings_of(mongo.url, redis.url), **own}
        self.number = 0

    async def happen(self, service: Service) -> None:
        """Take a change into the inbox, twice, and insert a document."""
        self.number += 1
        change = Change(f"e{self.number}", ChangeOp.UPDATE, "shop", "orders", "1", AT, after={"owner": "alice"})

        async def taken() -> bool:
            with contextlib.suppress(CompanionError):
                await service.store.inbox.append([change])
                return True
            return False

        for _ in range(2):
            await eventually(taken, SECONDS, "the inbox takes a change")
        async with AsyncMongoClient[dict[str, Any]](self.mongo.url) as client:
            await client.thing.devices.insert_one({"_id": f"d{self.number}", "owner": "alice"})

    async def counted(self, service: Service) -> None:
        """Wait until all that happened is counted; more would be wrong too."""

        async def totals() -> Mapping[str, int]:
            with contextlib.suppress(CompanionError):
                stats = await service.store.statistics.read("alice", Calendar.YEARLY, FIRST, LAST)
                return {stat.bucket.key: sum(stat.values) for stat in stats}
            return {}

        async def there() -> bool:
            found = await totals()
            return all(found.get(key, 0) >= self.number for key in (TAKEN, INSERTED))

        await eventually(there, SECONDS, "everything is counted")
        assert await totals() == {TAKEN: self.number, INSERTED: self.number}


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    (tmp_path / "mongo").mkdir()
    async with mongo_server(tmp_path / "mongo") as mongo, redis_server(tmp_path / "redis") as redis:
        yield Stores(mongo, redis)


async def observing(service: Service, reader: str = "@stream") -> None:
    """Wait until its place in the change stream is kept: from there on all is counted."""
    client = service.store._redis  # type: ignore[attr-defined]

    async def kept() -> bool:
        return bool(await client.redis.hexists(client.keys.stats, reader))

    await eventually(kept, SECONDS, "it observes")


async def test_both_sources_through_every_outage(tmp_path: Path, stores: Stores) -> None:
    """What is taken and what is written is counted once, in the platform's schema, over restarts and the death of both stores."""
    async with serving(tmp_path, Role.MAINTENANCE, **stores.settings) as service:
        await observing(service)
        for _ in range(3):
            await stores.happen(service)
        await stores.counted(service)

        stores.redis.kill()
        stores.redis.start()
        for _ in range(2):
            await stores.happen(service)
        await stores.counted(service)

        stores.mongo.kill()
        stores.mongo.start()
        await stores.happen(service)
        await stores.counted(service)
    async with serving(tmp_path, Role.MAINTENANCE, **stores.settings) as service:
        await stores.happen(service)
        await stores.counted(service)
        lost = {labels["reader"]: value for labels, value in await service.samples("companion_stats_lost_total")}
        assert lost == {"facts": 0, "stream": 0, "audits": 0, "events": 0}

    database, _, collection = stores.settings["stats_collection"].partition(".")
    async with AsyncMongoClient[dict[str, Any]](stores.mongo.url) as client:
        wanted = {"key": TAKEN, "owner": "alice", "year": 2026}
        daily = await client[database][collection].find_one({"type": "DAILY", "month": 1, "day": 31, **wanted})
        monthly = await client[database][collection].find_one({"type": "MONTHLY", "month": 1, **wanted})
        yearly = await client[database][collection].find_one({"type": "YEARLY", **wanted})
    assert daily is not None
    assert monthly is not None
    assert yearly is not None
    assert [daily["hours"], monthly["days"], yearly["months"]] == [
        [stores.number if hour == 13 else 0 for hour in range(24)],
        [0] * 30 + [stores.number],
        [stores.number] + [0] * 11,
    ]
    assert "flag" not in daily


async def test_events_of_the_broker(tmp_path: Path, stores: Stores) -> None:
    """What the broker told is counted once, though it tells some twice and MongoDB dies in between."""
    events = [
        BrokerEvent(f"{number}", EventKind.CONNECTED, AT, f"c{number}", "alice", "alice", connected_at=AT)
        for number in range(6)
    ]

    async def taken(service: Service, some: Sequence[BrokerEvent]) -> None:
        async def done() -> bool:
            with contextlib.suppress(CompanionError):
                await service.store.presence.take(some)
                return True
            return False

        for _ in range(2):
            await eventually(done, SECONDS, "events are taken")

    async def counted(service: Service, wanted: int) -> None:
        async def total() -> int:
            with contextlib.suppress(CompanionError):
                stats = await service.store.statistics.read("broker", Calendar.YEARLY, FIRST, LAST)
                return sum(sum(stat.values) for stat in stats if stat.bucket.key == "MQTT_COUNT__CONNECT_CLIENTS")
            return 0

        async def there() -> bool:
            return await total() >= wanted

        await eventually(there, SECONDS, "events are counted")
        assert await total() == wanted

    async with serving(tmp_path, Role.MAINTENANCE, **stores.settings) as service:
        await observing(service, "@events")
        await taken(service, events[:4])
        await counted(service, 4)
        stores.mongo.kill()
        stores.mongo.start()
        await taken(service, events)
        await counted(service, 6)
