"""`kill -9` of the process that keeps the mirror, again and again, while accounts change."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path

import aiohttp
import pytest

from companion.settings import Role
from tests.faults.service import Service
from tests.support import redis
from tests.support.eventually import eventually
from tests.support.mirroring import Mirrored, mirrored, tables_of
from tests.support.mongo import shared_url

KILLS = int(os.environ.get("COMPANION_TEST_KILLS", "3"))
"""More of them where there is time."""

PEOPLE = 1200


async def edit(house: Mirrored, chance: random.Random) -> None:
    """Change somebody, for ever."""
    while True:
        person = f"{chance.randrange(PEOPLE):05}"
        match chance.randrange(4):
            case 0:
                await house.users.delete_one({"_id": person})
            case 1:
                await house.users.update_one({"_id": person}, {"$set": {"deleted_at": 1}}, upsert=True)
            case _:
                fields = {"password": f"{chance.random()}", "deleted_at": None, "username": f"u-{person}"}
                await house.users.update_one({"_id": person}, {"$set": fields}, upsert=True)


@pytest.mark.parametrize("seed", [1])
async def test_kills_at_random(tmp_path: Path, seed: int) -> None:
    """Whenever it dies, the next life brings the mirror to what an undisturbed one would have made of it."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, protects nothing
    server = redis.shared_server(redis.debian_redis())
    async with mirrored(shared_url()) as house, aiohttp.ClientSession() as http:
        await house.users.insert_many(
            [{"_id": f"{n:05}", "username": f"u-{n:05}", "password": "x"} for n in range(PEOPLE)]
        )
        service = Service(
            tmp_path,
            1,
            http,
            Role.MAINTENANCE,
            store="production",
            mongo_url=shared_url(),
            mongo_database=house.own,
            mongo_accounts=json.dumps(tables_of(house.own)),
            mongo_timeout=2.5,
            redis_url=server.url,
            redis_prefix=house.own,
            mirror_collections="*",
        )
        editing = asyncio.create_task(edit(house, random.Random(seed)))  # noqa: S311 - likewise
        lease = house.mirror._client.keys.lease("mirror")  # type: ignore[attr-defined]

        async def begins(life: int) -> None:
            # Who died holds the lease until it has run out; that takes longer than there is to learn from it.
            await house.mirror._client.redis.delete(lease)  # type: ignore[attr-defined]
            await service.start()
            await eventually(lambda: _leads(service, life), 30, "it leads")

        try:
            for life in range(1, KILLS + 1):
                await begins(life)
                await asyncio.sleep(chance.random() * 1.2)
                await service.kill()
        finally:
            editing.cancel()
            await asyncio.gather(editing, return_exceptions=True)
        await begins(KILLS + 1)
        await house.settled()
        assert await house.wrong() == {}
        assert await service.terminate() == 0


async def _leads(service: Service, life: int) -> bool:
    return len([line for line in service.log.splitlines() if "leading" in line and "mirror" in line]) >= life
