"""What runs all the time: it lives until it has done what there is to do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from pymongo.asynchronous.collection import AsyncCollection

from companion.background import background
from companion.core.ports import Store
from companion.emqx_api import EmqxApi
from companion.leadership import Leadership
from companion.metrics import Metrics
from companion.settings import Settings
from companion.stores.embedded import observed
from companion.stores.embedded.audits import EmbeddedAudits
from companion.stores.embedded.leases import EmbeddedLeases
from companion.stores.embedded.notices import EmbeddedNotices
from companion.stores.embedded.observed import TableObserved
from companion.stores.embedded.revocations import EmbeddedRevocations
from companion.stores.embedded.stats import EmbeddedStatistics
from companion.stores.mongo import following, stream
from companion.stores.mongo.checkpoints import MongoCheckpoints
from companion.stores.mongo.ranges import operation_time
from companion.stores.mongo.stats import MongoStats
from companion.stores.mongo.stream import ChangeStream
from companion.stores.mongo.watcher import MongoWatcher
from companion.stores.opening import open_store
from companion.stores.redis import facts
from companion.stores.redis.facts import RedisFacts
from companion.stores.redis.leases import RedisLeases
from companion.stores.redis.mirror import RedisMirror
from companion.stores.redis.stats import RedisTally
from maintenance import observer as observing
from maintenance import revoker
from maintenance.mirroring import Mirroring
from maintenance.observer import Observer
from maintenance.revoking import Revoking, opened_api
from tests.faults.lives.life import END_SECONDS, LEASE_SECONDS, LEASES, LIFE_SECONDS, Life, looking
from tests.support.eventually import eventually


async def _counted(store: Store, last: AbstractSet[str]) -> bool:
    return not last.isdisjoint((await store.statistics.positions()).values())


async def count_what_is_there(settings: Settings) -> None:
    """Count until everything that is in the inbox is counted and flushed."""
    async with open_store(settings) as store:
        sources = list(store.observed(settings.counting()))
        one = Observer(
            sources=sources,
            statistics=store.statistics,
            zones=settings.zones(),
            flush_seconds=0.02,
            metrics=Metrics(),
        )
        leadership = Leadership(store.leases, "observer", f"life {os.getpid()}", LEASE_SECONDS)
        task = asyncio.create_task(leadership.run(one.run))
        with looking():
            last = (await store.inbox.read(0, 1000))[-1].position
            await eventually(lambda: _counted(store, {f"{last}", f"{last}-0"}), LIFE_SECONDS, "everything is counted")
        leadership.stop()
        await one.finish(END_SECONDS)
        await task


async def mirror_what_is_there(settings: Settings) -> None:
    """Keep the mirror until it is built, change something, and keep it until that is there too."""
    async with open_store(settings) as store:
        watcher = store.watcher
        assert isinstance(watcher, MongoWatcher)
        watcher._batch = 3
        leadership = Leadership(store.leases, "mirror", f"life {os.getpid()}", LEASE_SECONDS)
        mirroring = Mirroring(watcher, leadership, Metrics())
        task = asyncio.create_task(mirroring.run())
        with looking():
            await _settled(watcher)
            await _edit(watcher)
            await _settled(watcher)
        await mirroring.finish()
        await task


async def _settled(watcher: MongoWatcher) -> None:
    """Wait until all that was written before is in the mirror, and nothing is being copied."""
    now = await operation_time(watcher._client)
    at = f"{now.time}.{now.inc}"

    async def current() -> bool:
        kept = (await watcher._place()).kept
        return await watcher.rebuilt(at) and all(kept.get(hot.place) is not None for hot in watcher._hots.values())

    await eventually(current, LIFE_SECONDS, "the mirror is current")


async def _edit(watcher: MongoWatcher) -> None:
    """Change, delete and add somebody; done twice it is the same."""
    db, _, name = next(one for one in watcher.collections if one.endswith(".users")).partition(".")
    users = watcher._client.driver[db][name]
    await users.update_one({"_id": "0"}, {"$set": {"password": "new"}})
    await users.update_one({"_id": "1"}, {"$set": {"deleted_at": 1}})
    await users.delete_one({"_id": "2"})
    await users.update_one({"_id": "new"}, {"$set": {"username": "somebody", "password": "x"}}, upsert=True)


async def revoke_what_waits(settings: Settings) -> None:
    """Do what is left to do about revocations until nothing is."""
    metrics = Metrics()
    async with open_store(settings) as store, opened_api(settings, metrics) as api:

        async def nothing_waits() -> bool:
            return (await store.revocations.waiting()).count == 0

        revoking = Revoking(store, api, settings, metrics, f"life {os.getpid()}")
        async with background(revoking.run(), finish=revoking.finish):
            await eventually(nothing_waits, LIFE_SECONDS, "nothing is left to do")


SERVICES: Final[Mapping[str, Life]] = {
    "observer-embedded": Life(
        count_what_is_there,
        (
            (EmbeddedLeases, LEASES),
            (EmbeddedStatistics, ("claim", "apply", "flush", "positions")),
            (TableObserved, ("open", "read", "settled")),
        ),
        {(observing, "_READ"): 2, (observed, "_IDLE_SECONDS"): 0.05},
    ),
    "observer-production": Life(
        count_what_is_there,
        (
            (RedisLeases, LEASES),
            (RedisTally, ("claim", "apply", "freeze", "frozen", "drop")),
            (MongoStats, ("reached", "add")),
            (RedisFacts, ("open", "read", "settled")),
            (AsyncCollection, ("bulk_write",)),
        ),
        {(observing, "_READ"): 2, (facts, "_IDLE_SECONDS"): 0.05},
    ),
    "watcher": Life(
        mirror_what_is_there,
        (
            (RedisLeases, LEASES),
            (RedisMirror, ("clock", "begin", "put", "promote", "serve", "sweep")),
            (MongoCheckpoints, ("claim", "save")),
            (ChangeStream, ("open", "read")),
            (following, ("read_range",)),
        ),
        {(following, "_BEAT_SECONDS"): 0.1, (following, "_PUT"): 2, (stream, "_PATIENCE_SECONDS"): 0.1},
    ),
    "revoker": Life(
        revoke_what_waits,
        (
            (EmbeddedLeases, LEASES),
            (EmbeddedRevocations, ("claim", "note")),
            (EmbeddedNotices, ("announce",)),
            (EmbeddedAudits, ("append",)),
            (EmqxApi, ("_once",)),
        ),
        {(revoker, "LOOK_SECONDS"): 0.02},
    ),
}
