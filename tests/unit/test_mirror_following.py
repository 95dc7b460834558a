"""The follower of the mirror: what is in it, when it may be read, and what it does when something is lost."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bson import ObjectId

from companion.account_sources import AccountSource
from companion.core.errors import CompanionError, Fenced
from companion.core.model import Rebuild
from companion.core.ports import Copy
from companion.stores.mongo import following
from companion.stores.mongo.hot import document_in
from tests.support.eventually import eventually
from tests.support.mirroring import Mirrored, mirrored
from tests.support.mongo import MongoServer, mongo_server, shared_url
from tests.support.waiting import wait_until

FAULT = "companionFault"
NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look ten times a second how far we have come."""
    monkeypatch.setattr(following, "_BEAT_SECONDS", 0.1)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[MongoServer]:
    async with mongo_server(tmp_path) as running:
        yield running


@pytest.fixture
async def house() -> AsyncIterator[Mirrored]:
    async with mirrored(shared_url()) as found:
        yield found


@pytest.fixture
async def apart(server: MongoServer) -> AsyncIterator[Mirrored]:
    """Have a server for oneself, whose history may be lost."""
    async with mirrored(server.url) as found:
        yield found


async def fill(house: Mirrored, count: int = 25) -> list[ObjectId]:
    ids = [ObjectId() for _ in range(count)]
    await house.users.insert_many([{"_id": one, "username": f"user-{n}", "password": "x"} for n, one in enumerate(ids)])
    await house.clients.insert_many(
        [{"_id": one, "client_id": f"client-{one}", "client_secret": "s"} for one in (*ids[:3], "text", "täxt", 7, 8.5)]
    )
    await house.accounts.insert_one({"username": "ours", "password_hash": "h"})
    return ids


async def test_what_is_mirrored(house: Mirrored) -> None:
    """Only the fields that the mapping reads, found by every name; of who may not be used only the names."""
    users = [ObjectId() for _ in range(3)]
    await house.users.insert_many(
        [
            {"_id": users[0], "username": "alice", "password": "hash", "status": "ACTIVE", "phone": "123"},
            {"_id": users[1], "username": "bob", "password": "hash", "status": "BLOCKED"},
            {"_id": users[2], "username": ["c", "carol"], "password": "hash", "deleted_at": NOW},
        ]
    )
    async with house.following():
        hot = house.hot_users
        for name in ("alice", str(users[0])):
            (copy,) = await house.find(hot, name) or ()
            assert document_in(copy) == {
                "_id": users[0],
                "username": "alice",
                "password": "hash",
                "status": "ACTIVE",
            }
        for name in ("bob", str(users[1]), "c", "carol"):
            (copy,) = await house.find(hot, name) or ()
            assert document_in(copy) is None
            assert "hash" not in str(copy.document)
        assert await house.wrong() == {}


async def test_changes_are_followed(house: Mirrored) -> None:
    """Each way to change a document reaches the mirror; who is disabled, deleted or has expired is not in it any more."""
    ids = await fill(house)
    async with house.following(batch=4):
        assert await house.wrong() == {}
        await house.users.update_one({"_id": ids[0]}, {"$set": {"status": "BLOCKED"}})
        await house.users.update_one({"_id": ids[1]}, {"$set": {"username": "renamed"}})
        await house.users.update_one({"_id": ids[2]}, {"$set": {"phone": "of no use"}})
        await house.users.delete_one({"_id": ids[3]})
        await house.users.replace_one({"_id": ids[4]}, {"username": "another", "password": "y"})
        await house.users.insert_one({"_id": ids[3], "username": "back again", "password": "z"})
        await house.clients.update_one({"_id": ids[0]}, {"$set": {"expiration_date": NOW}})
        await house.accounts.update_one({"username": "ours"}, {"$set": {"disabled": True}})
        await house.settled()
        assert await house.wrong() == {}
        hot = house.hot_users
        (blocked,) = await house.find(hot, "user-0") or ()
        assert document_in(blocked) is None
        assert await house.find(hot, "user-1") == []
        assert len(await house.find(hot, "renamed") or ()) == 1
        assert len(await house.find(hot, "back again") or ()) == 1
    assert {why for _, why in house.heard.rebuilds} == {Rebuild.NEW}


async def test_only_who_is_current_is_read(house: Mirrored) -> None:
    """After the follower is gone nothing is read within the bound; the next one goes on where it was, without a rebuild."""
    ids = await fill(house)
    async with house.following():
        pass

    async def silent() -> bool:
        return await house.find(house.hot_users, "user-1") is None

    await eventually(silent, following.SERVED_SECONDS + 5, "nothing is read")
    await house.users.delete_one({"_id": ids[1]})
    house.heard.rebuilds.clear()
    async with house.following():
        assert await house.find(house.hot_users, "user-1") == []
        assert await house.wrong() == {}
    assert house.heard.rebuilds == []


async def test_only_one_follows(house: Mirrored) -> None:
    """Who was followed by another writes no more."""
    await fill(house)
    first = asyncio.create_task(house.follow())
    await house.settled(first)
    async with house.following():
        with pytest.raises(Fenced):
            await asyncio.wait_for(first, 30)
        assert await house.wrong() == {}


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_lost_history(apart: Mirrored, *, stopped: bool) -> None:
    """Everything is copied anew, also when it was lost while nobody followed; until then nothing is read."""
    ids = await fill(apart)
    if stopped:
        async with apart.following():
            pass
        await apart.users.delete_one({"_id": ids[0]})
        await apart.db.admin.command({FAULT: "forget"})
        await apart.users.insert_one({"username": "later"})
    async with apart.following():
        if not stopped:
            await apart.db.admin.command({FAULT: "error", "code": 286, "name": "ChangeStreamHistoryLost"})
            await wait_until(lambda: (apart.hot_users.collection, Rebuild.HISTORY_LOST) in apart.heard.rebuilds, 20)
            await apart.settled()
        assert await apart.wrong() == {}
    assert (apart.hot_users.collection, Rebuild.HISTORY_LOST) in apart.heard.rebuilds


async def test_a_collection_that_is_dropped(apart: Mirrored) -> None:
    """Nobody of it is left in the mirror, and whoever comes then is."""
    await fill(apart)
    async with apart.following():
        await apart.users.drop()
        await apart.users.insert_one({"username": "new", "password": "x"})
        await wait_until(lambda: (apart.hot_users.collection, Rebuild.DROPPED) in apart.heard.rebuilds, 20)
        await apart.settled()
        assert await apart.wrong() == {}
        assert len(await apart.find(apart.hot_users, "new") or ()) == 1


async def test_a_redis_that_forgets(house: Mirrored) -> None:
    """When Redis has lost what it had acknowledged nothing is read until everything was copied anew."""
    await fill(house)
    async with house.following():
        prefix = house.mirror._client.keys.mirror("")[:-1]  # type: ignore[attr-defined]
        redis = house.mirror._client.redis  # type: ignore[attr-defined]
        keys = [key async for key in redis.scan_iter(match=f"{prefix.split('{')[0]}*{house.hot_users.place}*")]
        assert len(keys) > 10
        await redis.delete(*keys)
        await wait_until(lambda: (house.hot_users.collection, Rebuild.FORGOTTEN) in house.heard.rebuilds, 20)
        await house.settled()
        assert await house.wrong() == {}


async def test_a_rebuild_on_request(house: Mirrored) -> None:
    """It mends what was spoilt, while the old copies go on being read and changes go on being followed."""
    ids = await fill(house)
    async with house.following(batch=5):
        watcher, place = house.watcher(), house.hot_users.place
        await house.mirror.put(place, [Copy(f"o{ids[0]}", 10**22, None), Copy("ofalse", 1, {"b": "x"})], house.fence)
        assert await house.wrong() == {"missing": 1, "surplus": 1}
        asked = await watcher.ask_for_rebuild()
        number = 0

        async def rebuilt() -> bool:
            nonlocal number
            number += 1
            assert await house.find(house.hot_users, "user-1") is not None
            await house.users.update_one({"_id": ids[2]}, {"$set": {"username": f"renamed {number}"}})
            return await watcher.rebuilt(asked)

        await eventually(rebuilt, 30, "everything is built anew")
        await house.settled()
        assert await house.wrong() == {}


async def test_a_rebuild_whose_follower_dies(house: Mirrored) -> None:
    """Whoever follows next answers what was asked while nobody did, and what the last one left half done."""
    ids = await fill(house)
    async with house.following():
        await house.mirror.put(house.hot_users.place, [Copy(f"o{ids[0]}", 10**22, None)], house.fence)
        assert await house.wrong() == {"missing": 1}
    asked = await house.watcher().ask_for_rebuild()

    async def begun() -> bool:
        return len(house.heard.rebuilds) > 0

    for _ in range(3):
        house.heard.rebuilds.clear()
        async with house.following(batch=1, settled=False):
            await eventually(begun, 30, "it has begun to build")
        assert not await house.watcher().rebuilt(asked)
    async with house.following():
        assert await house.watcher().rebuilt(asked)
        assert await house.wrong() == {}


async def test_other_settings(house: Mirrored) -> None:
    """Who reads other fields reads other copies, made anew; those of before are taken away."""
    await fill(house)
    before = house.hot_users.place
    async with house.following():
        pass
    house.sources = [
        AccountSource.model_validate({"like": "users", "collection": house.sources[0].collection, "status": ""})
    ]
    async with house.following():
        assert house.hot_users.place != before
        assert await house.wrong() == {}

        async def gone() -> bool:
            return await house.mirror.digests(before, "", None) == {}

        await eventually(gone, what="the copies of before are gone")


async def test_an_event_that_cannot_be_read(house: Mirrored) -> None:
    """What it is about is not in the mirror any more; all others are."""
    ids = await fill(house)
    async with house.following():
        await house.users.update_one({"_id": ids[5]}, {"$set": {"username": "\x7fNOT UTF-8\x7f"}})

        async def forgotten() -> bool:
            return await house.mirror.get(house.hot_users.place, f"o{ids[5]}") is None

        await eventually(forgotten, what="the copy is gone")
        assert len(await house.find(house.hot_users, "user-6") or ()) == 1


async def test_a_place_that_cannot_be_read(house: Mirrored) -> None:
    """It is not guessed at."""
    await house.db[house.own].mqtt_mirror.insert_one({"_id": "watcher", "fence": 0, "position": "{}"})
    with pytest.raises(CompanionError, match="cannot be read"):
        await house.follow()
