"""The service with the mirror: the hooks read it, and who is disabled in MongoDB itself is refused as quickly as without it."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

from broker_hooks.hashing import hash_password
from companion.settings import Role
from companion.stores.mongo.following import SERVED_SECONDS
from tests.support import redis
from tests.support.eventually import eventually
from tests.support.mirroring import Mirrored, mirrored, tables_of
from tests.support.mongo import shared_url
from tests.support.service import OPS_KEY, Service, serving

PEOPLE = 8


def settings_of(house: Mirrored) -> dict[str, Any]:
    """Return the settings of a service over the data of a test."""
    return {
        "store": "production",
        "mongo_url": shared_url(),
        "mongo_database": house.own,
        "mongo_accounts": json.dumps(tables_of(house.own)),
        "mongo_rules": "-",
        "mongo_timeout": 2.5,
        "redis_url": redis.shared_server(redis.debian_redis()).url,
        "redis_prefix": house.own,
        "changes_watch": "-",
        "mirror_collections": "*",
        # Almost every login is a look-up.
        "cache_seconds": 0.05,
        "throttle_failures": 0,
    }


async def hits(service: Service) -> float:
    return await service.metric("companion_mirror_lookups_total", outcome="hit")


async def test_who_is_disabled_is_refused(tmp_path: Path) -> None:
    """Within a second by the median, though the mirror is read; and nobody is ever let in again."""
    async with mirrored(shared_url()) as house:
        hashed = hash_password("secret", 4)
        await house.users.insert_many([{"username": f"user-{n}", "password": hashed} for n in range(PEOPLE)])
        async with serving(tmp_path, Role.ALL, **settings_of(house)) as service:

            async def allowed(name: str) -> bool:
                return bool((await service.login(name, "secret"))["result"] == "allow")

            async def read_from_the_mirror() -> bool:
                before = await hits(service)
                assert await allowed("user-0")
                return await hits(service) > before

            await eventually(read_from_the_mirror, 60, "the mirror is read")
            await eventually(lambda: _explained(service, "mirror", "hit"), 20, "an explanation tells of the mirror")
            taken = []
            for number in range(PEOPLE - 1):
                name = f"user-{number}"
                assert await allowed(name)
                began = time.monotonic()
                await house.users.update_one({"username": name}, {"$set": {"status": "BLOCKED"}})
                while await allowed(name):
                    assert time.monotonic() - began < 20
                taken.append(time.monotonic() - began)
            assert statistics.median(taken) < 1.0
            until = time.monotonic() + SERVED_SECONDS * 1.5
            while time.monotonic() < until:
                answers = await asyncio.gather(*(allowed(f"user-{number}") for number in range(PEOPLE)))
                assert answers == [False] * (PEOPLE - 1) + [True]
            await house.settled()
            assert await house.wrong() == {}


async def test_the_service_keeps_it(tmp_path: Path) -> None:
    """The role maintenance keeps the mirror, shows it in its metrics, and gives the lease back at its end."""
    async with mirrored(shared_url()) as house:
        await house.users.insert_one({"username": "alice", "password": "x"})
        for _ in range(2):
            async with serving(tmp_path, Role.MAINTENANCE, **settings_of(house)) as service:
                await eventually(lambda: _current(service, house), 20, "the mirror is current")
                assert await service.metric("companion_lease_held", lease="mirror") == 1
                assert await service.metric("companion_mirror_lag_seconds", collection=house.hot_users.collection) < 5


async def _explained(service: Service, source: str, outcome: str) -> bool:
    """Tell whether an explanation says where the account was found."""
    body = {"username": "user-0", "clientid": "c1", "action": "publish", "topic": "a"}
    headers = {"Authorization": f"Bearer {OPS_KEY}"}
    async with service.http.post(f"{service.ops}/explain", json=body, headers=headers) as response:
        account = (await response.json())["account"]
    return (account["from"], account["mirror"]) == (source, outcome)


async def _current(service: Service, house: Mirrored) -> bool:
    samples = await service.samples("companion_mirror_current_timestamp_seconds")
    shown = {labels["collection"] for labels, _ in samples}
    return shown == {hot.collection for hot in house.hots} and await house.wrong() == {}
