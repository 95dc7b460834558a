"""Old records removed per second by the cleaner, with and without an archive, against bare deletes: `python -m benchmarks.cleaner`.

The measure deletes by id in batches of the same size, as durably, and keeps nothing: no archive, no record of the run, no fence, no
comparison with what was archived. All ways run in turn on the same data, each in its own process. With `--mongo URL` the records
are MongoDB's; `--mongo standin` starts the tests' stand-in.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final, get_args

import msgspec
from bson import ObjectId
from pymongo import MongoClient

from benchmarks._cleaner_run import Result, Task, Way
from benchmarks._processes import call
from benchmarks._report import print_json, print_table, ratio
from companion.background import run
from companion.stores.embedded import EmbeddedStore
from companion.stores.embedded.store import FILE_NAME
from tests.support.mongo import MongoServer
from tests.support.redis import RedisServer, debian_redis

_MEBIBYTE: Final = 1 << 20
_FILLED_AT_ONCE: Final = 10_000
_OLD: Final = 1_500_000_000
_FIELDS: Final = (
    "at",
    "kind",
    "verdict",
    "reason",
    "username",
    "client_id",
    "peer_host",
    "action",
    "topic",
    "rule",
    "detail",
)


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="companion-bench-") as name, _data(Path(name), options) as tasks:
        rounds = [{way: _measured(tasks, way) for way in get_args(Way)} for _ in range(options.rounds)]
    rates = {way: [options.count / one[way].seconds for one in rounds] for way in get_args(Way)}
    grown = {way: max(one[way].grown_bytes for one in rounds) / _MEBIBYTE for way in get_args(Way)}
    ratios = {way: ratio(rates[way], rates["bare"]) for way in get_args(Way)}
    print_table(
        f"{options.rounds} rounds of {options.count:,} records, {options.batch} at a time: medians",
        ("per second", "ratio", "grown by at most"),
        [
            (text, f"{median(rates[way]):,.0f}", f"{ratios[way]:.2f}", f"{grown[way]:.0f} MiB")
            for way, text in (
                ("bare", "bare deletes"),
                ("remove", "cleaner, no archive"),
                ("archive", "cleaner, archive"),
            )
        ],
    )
    if options.json:
        print_json(
            {
                **{f"{way}_records_per_second": median(rates[way]) for way in rates},
                **{f"{way}_grown_mebibytes": grown[way] for way in grown},
                "ratio_remove": ratios["remove"],
                "ratio_archive": ratios["archive"],
            }
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured, in turn")
    parser.add_argument("--count", type=int, default=200_000, help="records of one round")
    parser.add_argument(
        "--batch", type=int, help="records removed at once (1000; of the stand-in 200, it bears no more)"
    )
    parser.add_argument("--mongo", default="", help="MongoDB to use instead of the embedded store")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    options = parser.parse_args()
    options.batch = options.batch or (200 if options.mongo == "standin" else 1000)
    return options


class Tasks:
    """Makes the data of one measurement anew, and the task over it. What can be copied is filled once."""

    def __init__(self, folder: Path, options: argparse.Namespace, settings: dict[str, Any]) -> None:
        self._folder = folder
        self._options = options
        self._settings = settings
        self._standin: MongoServer | None = None
        if settings["store"] == "embedded":
            _fill_sqlite(folder / "filled", options.count)
        elif options.mongo == "standin":
            (folder / "filled").mkdir()
            _fill_mongo(self._serve(folder / "filled"), options.count)
            self.end()

    def make(self, way: Way) -> Task:
        """Return a task over data that are complete."""
        data, settings = self._folder / secrets.token_hex(4), self._settings
        if (self._folder / "filled").exists():
            shutil.copytree(self._folder / "filled", data)
        else:
            data.mkdir()
            _fill_mongo(settings, self._options.count)
        if self._options.mongo == "standin":
            settings = self._serve(data)
        return Task(way, str(data), self._options.batch, self._options.count, settings)

    def end(self) -> None:
        """Stop the stand-in."""
        if self._standin is not None:
            self._standin.kill()
            self._standin = None

    def _serve(self, folder: Path) -> dict[str, Any]:
        self._standin = MongoServer(folder)
        self._standin.start()
        return self._settings | {"mongo_url": self._standin.url}


@contextlib.contextmanager
def _data(folder: Path, options: argparse.Namespace) -> Iterator[Tasks]:
    if not options.mongo:
        yield Tasks(folder, options, {"store": "embedded"})
        return
    redis = RedisServer(debian_redis(), folder / "redis")
    redis.start()
    try:
        settings = {"store": "production", "mongo_url": options.mongo, "redis_url": redis.url}
        database = {"mongo_database": f"bench-{secrets.token_hex(4)}", "mongo_timeout": 2.5}
        tasks = Tasks(folder, options, {**settings, **database})
        try:
            yield tasks
        finally:
            tasks.end()
    finally:
        redis.kill()


def _measured(tasks: Tasks, way: Way) -> Result:
    task = tasks.make(way)
    result = msgspec.json.decode(call("benchmarks._cleaner_run", msgspec.json.encode(task)), type=Result)
    tasks.end()
    shutil.rmtree(task.folder)
    return result


def _record(number: int) -> tuple[Any, ...]:
    at = _OLD * 1000 + number
    return at, "auth", "allow", "password", f"device-{number % 5000}", f"c{number}", "10.1.2.3", "", "", "", ""


def _fill_sqlite(folder: Path, count: int) -> None:
    async def make() -> None:
        async with EmbeddedStore.open(folder):
            pass

    run(make())
    connection = sqlite3.connect(folder / FILE_NAME)
    marks = ", ".join("?" * len(_FIELDS))
    connection.executemany(
        f"INSERT INTO audits ({', '.join(_FIELDS)}) VALUES ({marks})",  # noqa: S608 - names of ours
        (_record(number) for number in range(count)),
    )
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _fill_mongo(settings: dict[str, Any], count: int) -> None:
    with MongoClient[dict[str, Any]](settings["mongo_url"]) as client:
        collection = client[settings["mongo_database"]]["mqtt_audits"]
        for start in range(0, count, _FILLED_AT_ONCE):
            collection.insert_many(
                {"_id": _old_id(number), **dict(zip(_FIELDS, _record(number), strict=True))}
                for number in range(start, min(count, start + _FILLED_AT_ONCE))
            )


def _old_id(number: int) -> ObjectId:
    """Return an id as it was made when the record was."""
    return ObjectId(f"{_OLD:08x}{int(time.time()) & 0xFF:02x}{number:014x}")


if __name__ == "__main__":
    main()
