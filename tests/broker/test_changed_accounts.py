"""Accounts that change have their clients kicked: by our commands, and by whoever writes into MongoDB."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo import AsyncMongoClient

from companion.account_sources import AccountSource
from companion.core.model import AccountSecret
from companion.core.revocations import Cause
from companion.settings import Role
from tests.support import mongo, production, redis
from tests.support.emqx import Emqx, emqx, options
from tests.support.eventually import eventually
from tests.support.service import Service, account_of, serving

__all__ = ["emqx"]


@contextlib.asynccontextmanager
async def at_work(folder: Path, emqx: Emqx, profile: str, **more: Any) -> AsyncIterator[Service]:
    values: dict[str, Any] = {"revocation_settle": 0.2, "revocation_lease": 2.0, **options(emqx.url), **more}
    if profile == "production":
        values |= production.settings_of(mongo.shared_url(), redis.shared_server(redis.debian_redis()).url)
        values |= {"hooks_deadline": 20.0, "mongo_timeout": 10.0, "redis_timeout": 5.0}
    async with serving(folder, Role.MAINTENANCE, **values) as service:
        yield service


async def followed(service: Service) -> None:
    """Wait until somebody follows what changes."""
    name = "account-changes"

    async def there() -> bool:
        if service.settings.store == "embedded":
            return await service.store.checkpoints.load(name) is not None
        async with AsyncMongoClient[dict[str, Any]](service.settings.mongo_url.get_secret_value()) as client:
            found = await client[service.settings.mongo_database]["mqtt_checkpoints"].find_one({"_id": name})
            return found is not None and "position" in found

    await eventually(there, 30, "changes are followed")


async def gone(emqx: Emqx, client_id: str) -> None:
    async def kicked() -> bool:
        return client_id not in emqx.clients

    await eventually(kicked, 30, f"{client_id} is kicked")


@pytest.mark.parametrize("profile", ["embedded", "production"])
async def test_by_our_commands(tmp_path: Path, emqx: Emqx, profile: str) -> None:
    """Another password, a disabled account and a secret that is gone kick, once for each change; nobody else goes."""
    names = ("alice", "bob", "carol", "dave")
    for name in names:
        emqx.connect(f"{name}-1", name)
    emqx.connect("carol-2", "carol", online=False)
    async with at_work(tmp_path, emqx, profile) as service:
        await service.store.accounts.add([account_of(name, "secret") for name in names])
        await followed(service)
        await service.store.accounts.set_password("alice", "another-hash")
        await gone(emqx, "alice-1")
        await service.store.accounts.set_disabled("bob", disabled=True)
        await gone(emqx, "bob-1")
        for name in ("carol", "dave"):
            await service.store.accounts.add_secret(name, AccountSecret("s1", "a-hash"))
        await service.store.accounts.remove_secret("carol", "s1")
        await gone(emqx, "carol-1")
        found = await service.store.revocations.list()
        assert sorted((one.name, one.cause, one.asked_by) for one in found) == [
            ("alice", Cause.PASSWORD, "account"),
            ("bob", Cause.DISABLED, "account"),
            ("carol", Cause.SECRET, "account"),
        ]
    assert sorted(emqx.clients) == ["carol-2", "dave-1"]


async def test_while_nobody_ran(tmp_path: Path, emqx: Emqx) -> None:
    """What changed while no process ran is made good by the next one."""
    async with at_work(tmp_path, emqx, "embedded") as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        await followed(service)
    emqx.connect("alice-1", "alice")
    async with serving(tmp_path) as service:
        await service.store.accounts.set_password("alice", "another-hash")
    assert list(emqx.clients) == ["alice-1"]
    async with at_work(tmp_path, emqx, "embedded"):
        await gone(emqx, "alice-1")


async def test_switched_off(tmp_path: Path, emqx: Emqx) -> None:
    """Where it is not wanted nobody is kicked for that."""
    emqx.connect("alice-1", "alice")
    async with at_work(tmp_path, emqx, "embedded", revocation_kick_changed=False) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        await service.store.accounts.set_password("alice", "another-hash")
        await service.store.accounts.add_secret("alice", AccountSecret("s1", "a-hash"))
        await service.store.accounts.remove_secret("alice", "s1")

        async def noticed() -> bool:
            return await service.metric("companion_lease_held", lease="revoker") == 1

        await eventually(noticed, what="the revoker is at work")
        assert await service.store.revocations.list() == []
    assert emqx.asked == []


async def test_written_into_mongodb(tmp_path: Path, emqx: Emqx) -> None:
    """Somebody else writes: a device that is deleted, and a password of ours that is replaced."""
    emqx.connect("alice-1", "alice")
    emqx.connect("d-1", "65f1a2b3c4d5e6f708192a3b")
    url = mongo.shared_url()
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        sources = (AccountSource.model_validate({"like": "devices", "collection": f"x{secrets.token_hex(4)}.devices"}),)
        async with at_work(tmp_path, emqx, "production", mongo_accounts=sources) as service:
            devices = client[sources[0].collection.partition(".")[0]]["devices"]
            database = client[service.settings.mongo_database]
            await service.store.accounts.add([account_of("alice", "secret")])
            device = ObjectId("65f1a2b3c4d5e6f708192a3b")
            await devices.insert_one({"_id": device, "token": "t"})
            await followed(service)
            await database["mqtt_accounts"].update_one({"username": "alice"}, {"$set": {"password_hash": "x"}})
            await gone(emqx, "alice-1")
            await devices.delete_one({"_id": device})
            await gone(emqx, "d-1")
