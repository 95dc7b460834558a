"""Look-ups of accounts through the mirror, against the same look-ups in MongoDB: `python -m benchmarks.mirror`.

Both read the same users from the same process, nothing is cached, many look-ups are under way at once; they take turns, and
are compared round by round. Beside our own collection four others are asked, as the default settings have it. The memory is what
Redis uses more of once all are mirrored; while a collection is copied anew it is twice that.

MongoDB is the one that COMPANION_TEST_MONGO_URL names. Without it the tests' stand-in serves, which is written in Python: the ratio
is then that of the stand-in, many times better than what a real MongoDB leaves to be won, and only good to be compared with itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks._options import parser_of
from benchmarks._report import print_json, print_table, ratio
from companion.account_sources import ACCOUNTS_LIKE, AccountSource
from companion.core.model import Lookup, Rebuild
from companion.core.ports import Accounts
from companion.logs import configure_logs
from companion.stores.mongo.accounts import MongoAccounts
from companion.stores.mongo.client import MongoClient, MongoConfig, open_mongo
from companion.stores.mongo.gathering import GatheredAccounts
from companion.stores.mongo.hot import hot_collections
from companion.stores.mongo.indexes import ensure, wanted
from companion.stores.mongo.watcher import MongoWatcher
from companion.stores.nearby import Nearby
from companion.stores.redis import RedisClient, RedisConfig, open_redis
from companion.stores.redis.mirror import RedisMirror
from tests.support import mongo
from tests.support.redis import debian_redis, redis_server

_CHUNK: Final = 200
_LIKE: Final = ("users", "devices", "clients", "apts")
_BUILD_SECONDS: Final = 300.0
_HEADINGS: Final = ("look-ups/s", "ratio", "p50 ms", "p99 ms")


@dataclass(frozen=True, slots=True)
class _Round:
    rate: float
    milliseconds: Sequence[float]

    def at(self, share: float) -> float:
        """Return the time that this share of the look-ups was done within."""
        return sorted(self.milliseconds)[int(share * (len(self.milliseconds) - 1))]


class _Nobody:
    """An onlooker that does not care."""

    def rebuilding(self, collection: str, why: Rebuild) -> None:
        """Do nothing."""

    def taken(self, collection: str, copies: int) -> None:
        """Do nothing."""

    def served(self, collection: str, seconds: float) -> None:
        """Do nothing."""


def main() -> None:
    """Measure and print; say so where there is no MongoDB to measure."""
    options = _options()
    if not mongo.available():
        print(mongo.NEEDED)
        return
    configure_logs("console", "error")
    asyncio.run(_measured(options))


async def _measured(options: argparse.Namespace) -> None:
    looked: Counter[Lookup] = Counter()
    async with _stores() as (mongo_client, redis_client, sources):
        await _fill(mongo_client, sources[0], options.people)
        await ensure(mongo_client, wanted(sources, ()))
        own, mirror = MongoAccounts(mongo_client), RedisMirror(redis_client)
        hots = hot_collections(mongo_client.database.name, sources, ("*",))
        before = await _memory(redis_client)
        following = asyncio.create_task(MongoWatcher(mongo_client, mirror, hots).follow(1, _Nobody()))
        try:
            nearby = Nearby(mirror, hots)
            # From now on we would hear what changed; a moment later the mirror is believed.
            nearby.heard([])
            nearby.told = lambda lookup: looked.update([lookup])
            near = GatheredAccounts(own, mongo_client, sources, nearby)
            far = GatheredAccounts(own, mongo_client, sources)
            await _built(near, looked, _name(options.people - 1))
            memory = await _memory(redis_client) - before
            looked.clear()
            rounds = [(await _lookups(near, options), await _lookups(far, options)) for _ in range(options.rounds)]
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    _tell(options, rounds, memory, looked)


def _tell(
    options: argparse.Namespace, rounds: Sequence[tuple[_Round, _Round]], memory: int, looked: Counter[Lookup]
) -> None:
    results = {"mirror": [one for one, _ in rounds], "mongodb": [one for _, one in rounds]}
    rates = {name: [one.rate for one in found] for name, found in results.items()}
    ratios = {name: ratio(found, rates["mongodb"]) for name, found in rates.items()}
    print_table(
        f"{options.rounds} rounds of {options.lookups} look-ups, {options.concurrency} at once: medians",
        _HEADINGS,
        [
            (
                name,
                f"{median(rates[name]):,.0f}",
                f"{ratios[name]:.2f}",
                f"{median(one.at(0.5) for one in found):.2f}",
                f"{median(one.at(0.99) for one in found):.2f}",
            )
            for name, found in results.items()
        ],
    )
    server = "COMPANION_TEST_MONGO_URL" if mongo.URL else "the tests' stand-in, which is slow"
    hits = looked[Lookup.HIT] / max(1, looked.total())
    print(f"MongoDB: {server}. Found in the mirror: {hits:.0%}.")
    each = memory / options.people
    print(
        f"Memory: {each:,.0f} bytes for each of {options.people:,} accounts, {each * 10_000 / 2**20:.1f} MiB for 10,000."
    )
    if options.json:
        print_json(
            {f"{name}_lookups_per_second": median(found) for name, found in rates.items()}
            | {f"{name}_p99_ms": median(one.at(0.99) for one in found) for name, found in results.items()}
            | {"ratio_mirror": ratios["mirror"], "mirror_hits": hits, "bytes_per_account": each}
        )


@contextlib.asynccontextmanager
async def _stores() -> AsyncIterator[tuple[MongoClient, RedisClient, Sequence[AccountSource]]]:
    """Open both stores, with databases of our own that are dropped at the end."""
    name = f"bench-{random.getrandbits(32):08x}"
    sources = [
        AccountSource.model_validate({"like": like, "collection": f"{name}-{ACCOUNTS_LIKE[like]['collection']}"})
        for like in _LIKE
    ]
    with tempfile.TemporaryDirectory(prefix="companion-bench-") as folder:
        async with (
            redis_server(Path(folder, "redis"), program=debian_redis()) as redis,
            open_mongo(MongoConfig(mongo.shared_url(), name, 10.0)) as mongo_client,
            open_redis(RedisConfig(redis.url, name, timeout=5.0)) as redis_client,
        ):
            try:
                yield mongo_client, redis_client, sources
            finally:
                for database in await mongo_client.driver.list_database_names():
                    if database.startswith(name):
                        await mongo_client.driver.drop_database(database)


async def _fill(client: MongoClient, source: AccountSource, count: int) -> None:
    db, _, name = source.collection.partition(".")
    collection = client.driver[db][name]
    for first in range(0, count, _CHUNK):
        people: list[dict[str, Any]] = [
            {
                "username": _name(number),
                "password": "$2b$10$" + "x" * 53,
                "status": "ACTIVE",
                "subjects": [f"{_name(number)}@example.org"],
                "email": f"{_name(number)}@example.org",
            }
            for number in range(first, min(first + _CHUNK, count))
        ]
        await client.call(lambda people=people: collection.insert_many(people), _BUILD_SECONDS)  # type: ignore[misc]


def _name(number: int) -> str:
    return f"user-{number:06}"


async def _built(near: Accounts, looked: Counter[Lookup], last: str) -> None:
    """Wait until the last one is found in the mirror."""
    deadline = time.monotonic() + _BUILD_SECONDS
    while not looked[Lookup.HIT]:
        if time.monotonic() > deadline:
            raise RuntimeError("the mirror was not built in time")
        await near.get(last)
        await asyncio.sleep(0.1)


async def _memory(client: RedisClient) -> int:
    return int((await client.call(lambda redis: redis.info("memory")))["used_memory"])


async def _lookups(accounts: Accounts, options: argparse.Namespace) -> _Round:
    """Look for so many, at random but the same ones each time."""
    chance = random.Random(1)  # noqa: S311 - repeatable, protects nothing
    names = iter([_name(chance.randrange(options.people)) for _ in range(options.lookups)])
    times: list[float] = []

    async def look() -> None:
        for name in names:
            began = time.perf_counter()
            if await accounts.get(name) is None:
                raise RuntimeError(f"{name} was not found")
            times.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(look() for _ in range(options.concurrency)))
    return _Round(options.lookups / (time.perf_counter() - began), times)


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=5)
    parser.add_argument("--people", type=int, default=2000, help="accounts that are mirrored")
    parser.add_argument("--lookups", type=int, default=300, help="look-ups of one measurement")
    parser.add_argument("--concurrency", type=int, default=16, help="look-ups under way at once")
    return parser.parse_args()


if __name__ == "__main__":
    main()
