"""Change streams of MongoDB as a source of changes: what is told, and from which place reading goes on."""

from __future__ import annotations

import asyncio
import datetime as dt
import time

import pytest

from companion.core.errors import CompanionError, Fenced, Permanent
from companion.core.model import ChangeOp
from companion.stores.mongo import source as module
from tests.support.mongo import MongoServer
from tests.support.mongo_source import PATIENCE, Documents, Opener, db, reader, server

__all__ = ["db", "reader", "server"]


async def test_what_happens_to_a_document(db: Documents, reader: Opener) -> None:
    """Each way to change a document is told with what stood there before and after; soft deletes and restores are seen as such."""
    one = await reader()
    devices = db.thing.devices
    now = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
    await devices.insert_one({"_id": "d1", "owner": "alice", "n": 1})
    await devices.update_one({"_id": "d1"}, {"$set": {"n": 2}})
    await devices.update_one({"_id": "d1"}, {"$set": {"deleted_at": now}})
    await devices.update_one({"_id": "d1"}, {"$set": {"deleted_at": None}})
    await devices.update_one({"_id": "d1"}, {"$set": {"deleted_at": now}})
    await devices.update_one({"_id": "d1"}, {"$unset": {"deleted_at": 1}})
    await devices.replace_one({"_id": "d1"}, {"owner": "bob"})
    await devices.replace_one({"_id": "d1"}, {"owner": "bob", "deleted_at": now})
    await devices.delete_one({"_id": "d1"})
    changes = await one.read(9)
    op = ChangeOp
    assert [change.op for change in changes] == [
        op.CREATE,
        op.UPDATE,
        op.DELETE,
        op.RESTORE,
        op.DELETE,
        op.RESTORE,
        op.UPDATE,
        op.DELETE,
        op.DESTROY,
    ]
    assert {change.entity for change in changes} == {("thing", "devices", "d1")}
    assert len({change.event_id for change in changes}) == 9
    assert changes[0].before is None
    assert changes[0].after == {"_id": "d1", "owner": "alice", "n": 1}
    assert changes[-1].after is None
    assert changes[-1].before == {"_id": "d1", "owner": "bob", "deleted_at": "2026-11-24T00:00:00.000Z"}
    assert all(abs(change.at / 1000 - time.time()) < 60 for change in changes)


async def test_only_what_is_watched(db: Documents, reader: Opener) -> None:
    """Other databases and collections, and our own, are nobody's business; the place goes on with them all the same."""
    one = await reader(watch=("thing.*", "domain.clients", "companion.*"))
    await db.thing.devices.insert_one({"_id": "1"})
    await db.other.devices.insert_one({"_id": "2"})
    await db.domain.apps.insert_one({"_id": "3"})
    await db.domain.clients.insert_one({"_id": "4"})
    await db.companion.mqtt_accounts.insert_one({"_id": "5"})
    await db.companion.people.insert_one({"_id": "6"})
    await one.source.save(one.source._place.text())
    await db.thing.devices.insert_one({"_id": "7"})
    assert [change.id for change in await one.until_quiet()] == ["1", "4", "6", "7"]


async def test_a_quiet_stream_has_news_of_its_place(
    db: Documents, reader: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing happens that concerns us, the place is told now and then, or the history would run out under it."""
    monkeypatch.setattr(module, "_QUIET_SECONDS", 0.0)
    one = await reader()
    await db.other.things.insert_one({"_id": 1})
    async with asyncio.timeout(PATIENCE):
        while not one.items:
            one.items += await one.source.read(10)
    assert one.items[0].change is None
    await one.source.save(one.items[0].position)
    assert (await reader(2)).source._place == one.source._place


@pytest.mark.parametrize("end", ["reopened", "the server killed"])
async def test_goes_on_where_it_was(server: MongoServer, db: Documents, reader: Opener, end: str) -> None:
    """A second reader begins behind the saved place: nothing is lost and nothing repeated, also by a server that was killed."""
    one = await reader()
    for number in range(10):
        await db.thing.devices.insert_one({"_id": f"{number}"})
    await one.read(10)
    await one.source.save(one.items[3].position)
    if end == "the server killed":
        server.kill()
        await asyncio.to_thread(server.start)
    two = await reader(2)
    await db.thing.devices.insert_one({"_id": "last"})
    assert [change.id for change in await two.read(7)] == ["4", "5", "6", "7", "8", "9", "last"]
    assert [c.event_id for c in two.changes[:6]] == [c.event_id for c in one.changes[4:]]
    with pytest.raises(Fenced):
        await one.source.save(one.items[9].position)
    with pytest.raises(Fenced):
        await one.source.open(1)


async def test_the_first_start_is_remembered(db: Documents, reader: Opener) -> None:
    """Who dies before anything was saved begins again where it began."""
    await db.thing.devices.insert_one({"_id": "before"})
    await reader()
    await db.thing.devices.insert_one({"_id": "between"})
    two = await reader(2)
    assert [change.id for change in await two.until_quiet()] == ["between"]


async def test_burying(db: Documents, reader: Opener) -> None:
    """A change that cannot be published is kept with its reason, once."""
    one = await reader()
    await db.thing.devices.insert_one({"_id": "1"})
    await one.read(1)
    for reason in ("first", "second"):
        await one.source.bury(one.items[0], reason)
    (letter,) = await db.companion.mqtt_dead_letters.find().to_list()
    assert (letter["_id"], letter["key"], letter["reason"]) == (one.changes[0].event_id, "1", "second")
    assert await one.source.backlog() is None


@pytest.mark.parametrize("position", ["", "7", "{}", '{"token": 1, "time": 2}', '{"token": {}, "time": "x"}', "[]"])
async def test_a_checkpoint_that_cannot_be_read(reader: Opener, position: str) -> None:
    """It is not guessed at: that would lose or repeat."""
    one = await reader()
    await one.source.save(position)
    with pytest.raises(Permanent, match="checkpoint"):
        await reader(2)
    with pytest.raises(CompanionError):
        await one.source.open(3)
