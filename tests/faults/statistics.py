"""Counting under `kill -9`: changes with repeats, an observer that dies again and again, totals against a model of our own.

`python -m tests.faults.statistics --changes 100000` does it at length.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from companion.core.model import Change, ChangeOp
from companion.core.ports import Store
from companion.core.stats import Calendar
from companion.settings import Role, Settings
from companion.stores.opening import open_store
from tests.faults.service import Service
from tests.support.eventually import eventually

OFFSETS: Final = {"alice": 0, "bob": 9, "": 0}
"""Hours that the clocks of the owners are ahead."""

ACTORS: Final = ("carol", "dave")
DAYS: Final = 3
BEGIN: Final = dt.datetime(2026, 1, 30, 12, tzinfo=dt.UTC)
BATCH: Final = 200
REPEATS: Final = 0.2
SECONDS: Final = 120.0

OBSERVER: Final[Mapping[str, str]] = {
    "observer": "true",
    "observer_lease": "1",
    "observer_flush": "0.2",
    "stats_timezones": '{"bob": "Asia/Tokyo"}',
    "stats_measures": '[{"kind": "sum", "collection": "thing.metrics", "field": "value", "scale": 10}]',
}

Totals = Counter[tuple[str, str, str, dt.date, int]]
"""By owner, flag, key, day and hour."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of it."""

    changes: int
    repeats: int
    kills: int
    seconds: float
    wanted: Totals
    found: Totals


def workload(count: int, rng: random.Random) -> Sequence[Change]:
    """Return so many changes of some days around the end of a month, in no order of their times."""
    found = []
    for number in range(count):
        op = rng.choice(list(ChangeOp))
        document = {"owner": rng.choice(list(OFFSETS)), "value": rng.randrange(1000) / 10, "clients": ["c1"]}
        document |= {f"{verb}d_by": rng.choice(ACTORS) for verb in ("create", "update", "delete", "restore")}
        at = BEGIN + dt.timedelta(seconds=rng.randrange(DAYS * 86_400))
        collection = rng.choice(["metrics", "devices"])
        milliseconds = int(at.timestamp() * 1000)
        found.append(Change(f"e{number}", op, "thing", collection, f"{number % 100}", milliseconds, after=document))
    return found


def model(changes: Sequence[Change]) -> Totals:
    """Count every change once, by other means than the service does."""
    totals: Totals = Counter()
    for change in changes:
        document: Mapping[str, Any] = change.after or {}
        verb = change.op.value.upper()
        subjects = [(document["owner"], ""), ("c1", "client")]
        if change.op is not ChangeOp.DESTROY:
            subjects.append((document[f"{change.op.value}d_by"], "actor"))
        for owner, flag in subjects:
            there = dt.datetime.fromtimestamp(change.at / 1000, dt.UTC) + dt.timedelta(hours=OFFSETS.get(owner, 0))
            place = (there.date(), there.hour)
            totals[owner, flag, f"THING_COUNT__{verb}_{change.collection.upper()}", *place] += 1
            if change.op is ChangeOp.CREATE and change.collection == "metrics":
                totals[owner, flag, "THING_SUM__CREATE_METRICS", *place] += round(document["value"] * 10)
    return +totals


async def counted(store: Store) -> Totals:
    """Return what the statistics say; the three calendars have to agree."""
    totals: Totals = Counter()
    first, last = BEGIN.date(), BEGIN.date() + dt.timedelta(DAYS + 2)
    for owner in {*OFFSETS, *ACTORS, "c1"}:
        sums = []
        for calendar in Calendar:
            stats = await store.statistics.read(owner, calendar, first, last)
            sums.append(sum(sum(stat.values) for stat in stats))
            if calendar is Calendar.DAILY:
                for stat in stats:
                    day = dt.date(*stat.bucket[4:])
                    for hour, value in enumerate(stat.values):
                        totals[owner, stat.bucket.flag, stat.bucket.key, day, hour] += value
        assert len(set(sums)) == 1, (owner, sums)
    return +totals


async def post(store: Store, changes: Sequence[Change], rng: random.Random) -> int:
    """Take all changes, each batch with repeats of earlier ones; return how many repeats there were."""
    repeats = 0
    for start in range(0, len(changes), BATCH):
        batch = list(changes[start : start + BATCH])
        again = rng.choices(changes[: start + BATCH], k=int(len(batch) * REPEATS / (1 - REPEATS)))
        taken = await store.inbox.append([*batch, *again])
        assert taken.accepted == len(batch)
        repeats += taken.duplicates
        await asyncio.sleep(0)
    return repeats


async def strike(service: Service, store: Store, reader: str, rng: random.Random) -> None:
    """Start it, let it count something, kill it somewhere."""
    before = (await store.statistics.positions()).get(reader)

    async def moved() -> bool:
        return (await store.statistics.positions()).get(reader) != before

    await service.start()
    await eventually(moved, SECONDS, "something is counted")
    await asyncio.sleep(rng.uniform(0, 0.3))
    await service.kill()


async def rehearse(folder: Path, settings: Mapping[str, str], changes: int, kills: int, seed: int) -> Figures:
    """Take changes, and count them with an observer that is killed so often; return what was to be counted and what was."""
    rng = random.Random(seed)  # noqa: S311 - decides what a test does, protects nothing
    load = workload(changes, rng)
    values = {**OBSERVER, **settings}
    reader = "facts" if settings.get("store") == "production" else "inbox"
    patience = {"hooks_deadline": 60.0, "mongo_timeout": 20.0, "redis_timeout": 20.0}
    # What is taken into Redis is measured by whoever takes it.
    own = Settings.model_validate({"data_dir": folder / "data", **patience, **values})
    begun = time.monotonic()
    async with aiohttp.ClientSession() as http, open_store(own) as store:
        service = Service(folder, 1, http, Role.MAINTENANCE, **patience, **values)
        portion = -(-changes // (kills + 1))
        repeats = 0
        try:
            for life in range(kills + 1):
                # Those of the last life are counted to the end.
                some = load[: (life + 1) * portion] if life == 0 else load[life * portion : (life + 1) * portion]
                posting = asyncio.create_task(post(store, some, rng))
                if life < kills:
                    await strike(service, store, reader, rng)
                repeats += await posting
            await service.start()
            last = (await store.inbox.read(0, changes + 1))[-1].position

            async def all_there() -> bool:
                return (await store.statistics.positions()).get(reader) in {f"{last}", f"{last}-0"}

            await eventually(all_there, SECONDS, "everything is counted")
            assert await service.terminate() == 0
        finally:
            # Left alone it would go on, and keep the stores of all other tests busy.
            if service.running:
                await service.kill()
        found = await counted(store)
    return Figures(changes, repeats, kills, time.monotonic() - begun, model(load), found)


def main() -> None:
    """Do it at length and say what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--changes", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--production", nargs=2, metavar=("MONGO_URL", "REDIS_URL"), help="instead of the embedded store"
    )
    arguments = parser.parse_args()
    settings: dict[str, str] = {}
    if arguments.production:
        name = f"stats-{random.randrange(10**9)}"  # noqa: S311 - a name that nobody has, not a secret
        mongo_url, redis_url = arguments.production
        settings = {"store": "production", "mongo_url": mongo_url, "redis_url": redis_url, "redis_prefix": name}
        settings |= {"mongo_database": name, "stats_collection": f"{name}-special.stats", "changes_watch": "-"}
    with tempfile.TemporaryDirectory() as folder:
        done = asyncio.run(rehearse(Path(folder), settings, arguments.changes, arguments.kills, arguments.seed))
    exact = done.wanted == done.found
    print(  # noqa: T201 - a program of its own
        f"{done.changes} changes, {done.repeats} repeats, {done.kills} kills, {done.seconds:.0f} s:"
        f" {len(done.found)} counters, total {done.found.total()} of {done.wanted.total()}, exact: {exact}"
    )
    raise SystemExit(not exact)


if __name__ == "__main__":
    main()
