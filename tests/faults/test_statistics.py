"""An observer that is killed with `kill -9` again and again counts every change once."""

from __future__ import annotations

from pathlib import Path

from tests.faults.statistics import rehearse
from tests.support import mongo, redis
from tests.support.production import settings_of


async def test_embedded(tmp_path: Path) -> None:
    """20,000 changes, a fifth of what comes repeated, three kills: all totals are exact."""
    done = await rehearse(tmp_path, {}, changes=20_000, kills=3, seed=7)
    assert done.repeats > 4000
    assert done.found == done.wanted


async def test_production(tmp_path: Path) -> None:
    """The same over Redis and MongoDB, where the observer dies between Redis and MongoDB too."""
    # A server of its own: a flush has hundreds of writes, and the stand-in takes the longer for each the more databases it has.
    async with mongo.mongo_server(tmp_path) as server:
        urls = server.url, redis.shared_server(redis.debian_redis()).url
        settings = {**{name: str(value) for name, value in settings_of(*urls).items()}, "changes_watch": "-"}
        done = await rehearse(tmp_path, settings, changes=1200, kills=3, seed=8)
    assert done.repeats > 240
    assert done.found == done.wanted
