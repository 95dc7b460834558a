"""What runs all the time, killed (`kill -9`) before and after every single step: who counts, who mirrors, who compares."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from companion.core.model import Change, ChangeOp, Rebuild
from companion.core.ports import Copy, Store
from companion.core.runs import RunState
from companion.core.stats import Calendar
from companion.stores.embedded import EmbeddedStore
from companion.stores.mongo import following, stream
from companion.stores.mongo.hot import version_read_at
from companion.stores.mongo.ranges import operation_time
from companion.stores.mongo.runs import MongoRuns
from maintenance.mirror_reconcile import MirrorReconcile
from maintenance.records import request_of
from tests.conftest import Note
from tests.faults.killing import PARALLEL, PATIENCE, Place, kill_at_every_step, places
from tests.support.mirroring import Mirrored, mirrored, tables_of
from tests.support.mongo import mongo_server
from tests.support.redis import debian_redis, shared_server

CHANGES: Final = 7
COUNTING: Final = {"observer": True, "stats_decisions": False, "stats_whom": "-", "changes_watch": "-"}
PEOPLE: Final = 4


async def _take_changes(store: Store) -> None:
    day = int(dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp() * 1000)
    await store.inbox.append(
        [
            Change(f"{n}", ChangeOp.CREATE, "thing", "metrics", f"{n}", day + n % 2 * 3_600_000, after={"owner": "o"})
            for n in range(CHANGES)
        ]
    )


async def _check_counters(store: Store) -> None:
    """Every change is counted once, in its own hour."""
    day = dt.date(2026, 1, 1)
    (stat,) = await store.statistics.read("o", Calendar.DAILY, day, day)
    assert stat.values[:3] == (4, 3, 0)
    assert sum(stat.values) == CHANGES


class CountingEmbedded:
    """Changes in a data folder, another one each time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._times = 0

    async def prepare(self) -> Mapping[str, Any]:
        self._times += 1
        data = self._folder / f"{self._times}"
        async with EmbeddedStore.open(data) as store:
            await _take_changes(store)
        return {"data_dir": data, **COUNTING}

    async def check(self, *, undisturbed: bool) -> None:
        del undisturbed
        async with EmbeddedStore.open(self._folder / f"{self._times}") as store:
            await _check_counters(store)


class CountingProduction:
    """Changes in Redis, all of whose keys are new each time, as are the statistics."""

    def __init__(self, place: Place) -> None:
        self._place = place

    async def prepare(self) -> Mapping[str, Any]:
        store, own = self._place.store, str(self._place.settings["mongo_database"])
        await _forget(store)
        await self._place.driver[own].mqtt_checkpoints.delete_many({})
        await self._place.driver[f"{own}-special"].stats.delete_many({})
        await _take_changes(store)
        return self._place.settings

    async def check(self, *, undisturbed: bool) -> None:
        del undisturbed
        await _check_counters(self._place.store)


async def _forget(store: Any) -> None:
    redis = store._redis.redis
    keys = [key async for key in redis.scan_iter(f"{store._redis.keys.lease('x').partition(':')[0]}*")]
    if keys:
        await redis.delete(*keys)


async def test_the_observer_embedded(tmp_path: Path, note: Note) -> None:
    """Killed before and after each of its steps, in turn: whoever counts next ends with the same counters."""
    cases = [CountingEmbedded(tmp_path / f"{n}") for n in range(PARALLEL)]
    _, kills = await kill_at_every_step(tmp_path, note, "observer-embedded", cases, exact=False)
    assert kills > 25


async def test_the_observer(tmp_path: Path, note: Note) -> None:
    """The same between Redis and MongoDB."""
    async with places(tmp_path, **COUNTING) as found:
        cases = [CountingProduction(place) for place in found]
        _, kills = await kill_at_every_step(tmp_path, note, "observer-production", cases, exact=False)
    assert kills > 30


class Watching:
    """Users that are mirrored, into keys of Redis that are new each time."""

    def __init__(self, house: Mirrored, settings: Mapping[str, Any]) -> None:
        self._house = house
        self._settings = settings

    async def prepare(self) -> Mapping[str, Any]:
        house = self._house
        redis, own = house.mirror._client, house.own  # type: ignore[attr-defined]
        keys = [key async for key in redis.redis.scan_iter(f"{own}*")]
        if keys:
            await redis.redis.delete(*keys)
        await house.db[own].mqtt_mirror.delete_many({})
        await house.users.delete_many({})
        await house.users.insert_many([{"_id": f"{n}", "username": f"u{n}", "password": f"{n}"} for n in range(PEOPLE)])
        return self._settings

    async def check(self, *, undisturbed: bool) -> None:
        """Expect the mirror that somebody who never died would have built."""
        del undisturbed
        assert await self._house.wrong() == {}
        found = await self._house.mirror.digests(self._house.hot_users.place, "", None)
        # Of whoever is deleted the name is kept, so that nobody else gets it.
        assert len(found) == PEOPLE


class Reconciling:
    """A mirror that one follower keeps all the time, spoilt each time, and to be copied anew where `rebuild` says so."""

    def __init__(self, house: Mirrored, settings: Mapping[str, Any], *, rebuild: bool) -> None:
        self._house = house
        self._rebuild = rebuild
        self._rebuilds = 0
        self._runs = MongoRuns(house.client)
        self._settings = settings
        self._run = request_of(MirrorReconcile(), {}, 0)

    async def prepare(self) -> Mapping[str, Any]:
        house = self._house
        place, version = house.hot_users.place, version_read_at(await operation_time(house.client))
        there = await house.mirror.get(place, "s0")
        assert there is not None
        spoilt = [Copy("s1", version, None), Copy("s2", version, there.document, there.keys)]
        spoilt += [Copy("snobody", version, there.document, there.keys), Copy("s3", version, None)]
        assert await house.mirror.put(place, spoilt, house.fence) == len(spoilt)
        assert sum((await house.wrong()).values()) == len(spoilt)
        parameters = {"rebuild": "true"} if self._rebuild else {}
        self._run = request_of(MirrorReconcile(), parameters, int(time.time() * 1000))
        self._rebuilds = len(house.heard.rebuilds)
        await self._runs.add(self._run)
        return self._settings

    async def check(self, *, undisturbed: bool) -> None:
        """Expect a mirror that is right, and a run that says what it found."""
        assert await self._house.wrong() == {}
        run = await self._runs.get(self._run.id)
        assert run is not None
        assert run.state is RunState.DONE, run
        users = f"{self._house.own}-identity.users"
        # A rebuild has made it right before it is compared.
        wanted = {} if self._rebuild else {f"{users} missing": 2, f"{users} stale": 1, f"{users} surplus": 1}
        assert not undisturbed or run.progress.counts == wanted
        heard = self._house.heard.rebuilds[self._rebuilds :]
        rebuilds = [why for collection, why in heard if collection == users]
        # Who dies between asking and noting it asks once more.
        assert set(rebuilds) == ({Rebuild.ASKED} if self._rebuild else set())
        assert len(rebuilds) <= (1 if undisturbed else 2)


@contextlib.asynccontextmanager
async def _houses(folder: Path, count: int) -> AsyncIterator[Sequence[tuple[Mirrored, Mapping[str, Any]]]]:
    """Open places of their own in a MongoDB of this test's own, with the settings of the service over each."""
    (folder / "mongo").mkdir()
    redis = shared_server(debian_redis())
    async with contextlib.AsyncExitStack() as stack:
        mongo = await stack.enter_async_context(mongo_server(folder / "mongo"))
        found = []
        for _ in range(count):
            house = await stack.enter_async_context(mirrored(mongo.url, 20.0))
            house.sources = house.sources[:1]
            settings = {
                **PATIENCE,
                "store": "production",
                "mongo_url": mongo.url,
                "mongo_database": house.own,
                "mongo_accounts": tables_of(house.own)[:1],
                "mongo_rules": [],
                "redis_url": redis.url,
                "redis_prefix": house.own,
                "mirror_collections": [f"{house.own}-identity.users"],
                "changes_watch": "-",
            }
            found.append((house, settings))
        yield found


@pytest.mark.timeout(280)
async def test_the_watcher(tmp_path: Path, note: Note) -> None:
    """While it builds the mirror and while it follows: whoever keeps it next makes of it what it has to be."""
    async with _houses(tmp_path, PARALLEL) as houses:
        cases = [Watching(house, settings) for house, settings in houses]
        _, kills = await kill_at_every_step(tmp_path, note, "watcher", cases, exact=False)
    assert kills > 40


@pytest.mark.timeout(280)
@pytest.mark.parametrize("rebuild", [False, True], ids=["compares", "rebuilds"])
async def test_reconciliation(*, rebuild: bool, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror that is wrong is right when the job is done, whoever died at it, and also at having it copied anew first."""
    # Often enough that a life waits little, seldom enough that the beats are not most of the work.
    monkeypatch.setattr(following, "_BEAT_SECONDS", 0.25)
    monkeypatch.setattr(stream, "_PATIENCE_SECONDS", 0.25)
    async with contextlib.AsyncExitStack() as stack:
        houses = await stack.enter_async_context(_houses(tmp_path, PARALLEL))
        cases = []
        for house, settings in houses:
            await house.users.insert_many(
                [{"_id": f"{n}", "username": f"u{n}", "password": f"{n}"} for n in range(PEOPLE)]
            )
            await stack.enter_async_context(house.following())
            cases.append(Reconciling(house, settings, rebuild=rebuild))
        _, kills = await kill_at_every_step(tmp_path, note, "mirror-reconcile", cases, exact=False)
    assert kills > 20
