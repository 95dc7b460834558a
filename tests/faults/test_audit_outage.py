"""Audit records through the death of MongoDB and `kill -9` of the hooks: none is lost, none is there twice, the chains hold."""

from __future__ import annotations

import time
from pathlib import Path

import aiohttp
import pytest

from companion.core.errors import CompanionError
from companion.core.model import Audit
from companion.core.seals import Report, SealCheck
from companion.settings import Role
from companion.stores.opening import open_store
from maintenance.audit_check import check_all
from tests.faults.service import Service
from tests.support.eventually import eventually
from tests.support.mongo import mongo_server
from tests.support.mosquitto import free_port
from tests.support.production import settings_of
from tests.support.redis import redis_server
from tests.support.service import HOOK_KEY, make_settings

SECONDS = 90.0
NAME = "nobody-"


def files(service: Service) -> list[str]:
    return sorted(path.name for path in (service.data_dir / "spool").glob("*"))


@pytest.mark.timeout(560)
async def test_an_outage(tmp_path: Path) -> None:
    """What is decided while MongoDB is dead is on the disk; after `kill -9` the next process brings it to MongoDB, each once."""
    (tmp_path / "mongo").mkdir()
    async with (
        mongo_server(tmp_path / "mongo") as mongo,
        redis_server(tmp_path / "redis") as redis,
        aiohttp.ClientSession() as http,
    ):
        stores, port = dict(settings_of(mongo.url, redis.url)), free_port()
        service = Service(tmp_path, 1, http, Role.HOOKS, **stores, hooks_port=port, hooks_keys=HOOK_KEY)

        async def login(number: int) -> None:
            """Ask for somebody whom nobody knows: refused, with or without a store, and recorded."""
            body = {"username": f"{NAME}{number}", "password": "secret", "clientid": "c1"}
            headers = {"Authorization": f"Bearer {HOOK_KEY}"}
            async with http.post(f"http://127.0.0.1:{port}/mqtt/auth", json=body, headers=headers) as response:
                assert await response.json() == {"result": "deny"}

        async def recorded(wanted: int) -> list[Audit]:
            """Return the records of those logins once there are so many."""
            async with open_store(make_settings(tmp_path, **stores)) as store:

                async def there() -> list[Audit] | None:
                    try:
                        found = [one for one in await store.audits.latest(1000) if one.username.startswith(NAME)]
                    except CompanionError:
                        return None
                    return found if len(found) >= wanted else None

                found = await eventually(there, SECONDS, f"{wanted} records")
                report = Report()
                now = int(time.time() * 1000)
                async for _ in check_all(store.audits, report, SealCheck(report, {}), cut=0, now=now):
                    pass
            assert report.problems == []
            assert report.checked >= wanted
            return found

        await service.start()
        for number in range(5):
            await login(number)
        await recorded(5)
        mongo.kill()
        for number in range(5, 10):
            await login(number)

        async def on_the_disk() -> bool:
            return await service.metric("companion_audits_spooled") == 5

        await eventually(on_the_disk, SECONDS, "records are on the disk")
        await service.kill()
        (left,) = files(service)
        assert left.endswith(".spool")
        mongo.start()
        await service.start()
        await login(10)
        found = await recorded(11)
        assert sorted(int(one.username.removeprefix(NAME)) for one in found) == list(range(11))

        async def delivered() -> bool:
            return not files(service)

        await eventually(delivered, SECONDS, "the folder is empty")
        assert await service.metric("companion_audits_dropped_total") == 0
        assert await service.terminate() == 0
