"""Reconciliation: what events that were lost left wrong in the mirror is found, counted and made good.

`COMPANION_TEST_EDITS=10000` for as many random edits as the requirements speak of; without it 3,000, for the time it takes.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from companion.core.errors import Invalid, Transient
from companion.core.model import Rebuild
from companion.core.ports import Copy, Lease
from companion.core.runs import Progress, Run, Trigger
from companion.leadership import Term
from companion.metrics import Metrics
from companion.settings import Settings
from companion.stores.mongo import following, watcher
from companion.stores.mongo.hot import document_in
from companion.stores.mongo.stream import Batch, ChangeStream
from maintenance import mirror_reconcile
from maintenance.job import Work
from maintenance.mirror_reconcile import MirrorReconcile
from tests.support.mirroring import Mirrored, mirrored
from tests.support.mongo import shared_url

EDITS = int(os.environ.get("COMPANION_TEST_EDITS", "3000"))
PEOPLE = 700
LOST = 0.01


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mirrored]:
    monkeypatch.setattr(following, "_BEAT_SECONDS", 0.1)
    async with mirrored(shared_url()) as found:
        yield found


class Reconciling:
    """Runs of the job, as the engine runs it."""

    def __init__(self, house: Mirrored) -> None:
        self.metrics = Metrics()
        self._store: Any = SimpleNamespace(watcher=house.watcher())

    def work(self, run: Run) -> Work:
        term = Term(Lease("x", "me", 1), 60, 0, lambda: 0.0)
        return Work(run, term, Settings(), self._store, metrics=self.metrics)

    async def run(self, progress: Progress | None = None, *, dry: bool = False, **parameters: Any) -> list[Progress]:
        run = Run("run", "mirror-reconcile", Trigger.PERSON, 0, 0, parameters, dry, progress=progress or Progress())
        return [one async for one in MirrorReconcile().batches(self.work(run))]

    def counted(self) -> dict[str, int]:
        """Return what the metrics have counted, by kind."""
        found: Counter[str] = Counter()
        for family in self.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == "companion_mirror_drift_total":
                    found[sample.labels["kind"]] += int(sample.value)
        return dict(found)


def kinds(progress: Progress) -> dict[str, int]:
    """Return what a run has counted, by kind."""
    found: Counter[str] = Counter()
    for name, count in progress.counts.items():
        found[name.split()[-1]] += count
    return dict(found)


class Edits:
    """Random edits of users, seeded."""

    def __init__(self, house: Mirrored, seed: int) -> None:
        self._users = house.users
        self._random = random.Random(seed)  # noqa: S311 - repeatable, protects nothing

    async def make(self, count: int) -> None:
        """Make so many, some at once: edits of one document stay in order."""
        for first in range(0, count, 20):
            people = {self._random.randrange(PEOPLE) for _ in range(min(20, count - first))}
            while len(people) < min(20, count - first):
                people.add(self._random.randrange(PEOPLE))
            await asyncio.gather(*(self._one(f"{person:04}") for person in people))

    async def _one(self, person: str) -> None:
        kind, value = (
            self._random.choice(("put", "put", "block", "unblock", "remove", "delete", "rename")),
            self._random.random(),
        )
        every: dict[str, dict[str, Any]] = {
            "put": {"password": f"{value}", "status": "ACTIVE"},
            "block": {"status": "BLOCKED"},
            "unblock": {"status": "ACTIVE", "deleted_at": None},
            "delete": {"deleted_at": value},
            "rename": {"username": f"name {value:.2f}"},
        }
        fields = every.get(kind, {})
        if kind == "remove":
            await self._users.delete_one({"_id": person})
        else:
            await self._users.update_one({"_id": person}, {"$set": fields}, upsert=True)


def losing(monkeypatch: pytest.MonkeyPatch, seed: int) -> Counter[str]:
    """Let the follower lose one event in a hundred; return how many it lost, and how many came."""
    chance, told = random.Random(seed), Counter[str]()  # noqa: S311 - repeatable, protects nothing

    class Losing(ChangeStream):
        async def read(self, limit: int, *, wait: bool = True) -> Batch:
            batch = await super().read(limit, wait=wait)
            kept = []
            for raw in batch.events:
                edit = (raw.document or {}).get("ns", {}).get("coll") == "users"
                lost = edit and chance.random() < LOST
                told["edits"] += edit
                told["lost"] += lost
                if not lost:
                    kept.append(raw)
            return replace(batch, events=kept)

    monkeypatch.setattr(following, "ChangeStream", Losing)
    return told


async def test_random_edits(house: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many edits one in a hundred does not come: one reconciliation counts exactly what is wrong, and then nothing is."""
    monkeypatch.setattr(mirror_reconcile, "_BATCH", 100)
    told, edits, reconciling = losing(monkeypatch, 7), Edits(house, 7), Reconciling(house)
    async with house.following():
        await edits.make(EDITS)
        await house.settled()
        wrong = await house.wrong()
        assert told["lost"] > EDITS * LOST / 3
        assert wrong
        assert kinds((await reconciling.run(dry=True))[-1]) == wrong
        assert reconciling.counted() == {}
        assert kinds((await reconciling.run())[-1]) == wrong
        assert reconciling.counted() == wrong
        assert await house.wrong() == {}
        assert kinds((await reconciling.run())[-1]) == {}


async def test_beside_edits(house: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on its way, or changes while it is compared, is no drift."""
    monkeypatch.setattr(mirror_reconcile, "_BATCH", 50)
    edits, reconciling = Edits(house, 3), Reconciling(house)
    async with house.following():
        await edits.make(PEOPLE)
        editing = asyncio.create_task(edits.make(400))
        while not editing.done():
            assert kinds((await reconciling.run())[-1]) == {}
        await editing
        await house.settled()
        assert await house.wrong() == {}


async def test_it_goes_on_where_it_was(house: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new life compares the ranges that are left, over ids of every type; at the end there is nothing left."""
    monkeypatch.setattr(mirror_reconcile, "_BATCH", 4)
    ids: list[Any] = ["a", "b", "ä", "\U0001f600", 7, 8.5, None, *range(100, 104)]
    await house.clients.insert_many([{"_id": one, "client_id": f"c-{one}", "client_secret": "s"} for one in ids])
    await house.users.insert_many([{"username": f"u{n}", "password": "x"} for n in range(8)])
    async with house.following():
        for hot in house.hots:
            await house.mirror.put(
                hot.place, [Copy("o" + "f" * 24, 1, {"b": ""}), Copy("szzz", 1, {"b": ""})], house.fence
            )
        reconciling = Reconciling(house)
        dry = await reconciling.run(dry=True)
        assert kinds(dry[-1]) == {"surplus": 2 * len(house.hots)}
        assert dry[-1].done == len(ids) + 8
        for one in (dry[-3], dry[-1]):
            assert (await reconciling.run(one, dry=True) or [one])[-1] == dry[-1]
        await reconciling.run()
        assert await house.wrong() == {}


async def test_a_rebuild(house: Mirrored) -> None:
    """It is asked for, waited for, also by a later life, and then compared."""
    await house.users.insert_many([{"username": f"u{n}", "password": "x"} for n in range(8)])
    async with house.following():
        reconciling = Reconciling(house)
        steps = await reconciling.run(rebuild="true")
        assert steps[0].position.startswith("asked ")
        assert steps[-1] == Progress(8, None, {}, "end ")
        rebuilds = len(house.heard.rebuilds)
        assert (house.hot_users.collection, Rebuild.ASKED) in house.heard.rebuilds
        assert (await reconciling.run(steps[0], rebuild=True))[-1] == steps[-1]
        assert len(house.heard.rebuilds) == rebuilds
        with pytest.raises(Invalid, match="true or false"):
            await reconciling.run(rebuild="perhaps")


async def test_an_expiry_is_no_drift(house: Mirrored) -> None:
    """Who expires while the copy stands is made good without being counted."""
    await house.clients.insert_one(
        {"_id": "a", "client_id": "a", "client_secret": "s", "expiration_date": 4_000_000_000}
    )
    (hot,) = [one for one in house.hots if one.collection.endswith("clients")]
    async with house.following():
        await house.clients.update_one({"_id": "a"}, {"$set": {"expiration_date": 1}})
        await house.settled()
        document = await house.clients.find_one({"_id": "a"})
        copy = await house.mirror.get(hot.place, "sa")
        assert copy is not None
        assert document_in(copy) is None
        unexpired = hot.copy_of(document, copy.version + 1, 0)
        assert await house.mirror.put(hot.place, [unexpired], house.fence) == 1
        assert kinds((await Reconciling(house).run())[-1]) == {}
        assert await house.wrong() == {}


async def test_nobody_follows(house: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was never built is not compared; where nobody follows any more the run says so, and repairs nothing."""
    monkeypatch.setattr(watcher, "_PASSED_SECONDS", 0.2)
    reconciling = Reconciling(house)
    assert kinds((await reconciling.run())[-1]) == {"skipped": len(house.hots)}
    async with house.following():
        pass
    await house.users.insert_one({"username": "late", "password": "x"})
    with pytest.raises(Transient, match="nobody keeps the mirror"):
        await reconciling.run()
