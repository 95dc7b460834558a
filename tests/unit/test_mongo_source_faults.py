"""Change streams of MongoDB when something is wrong with a document, the server or the way to it."""

from __future__ import annotations

import time

import pytest

from companion.core.errors import Transient
from companion.core.model import ChangeOp, Incident
from tests.support.mongo import MongoServer
from tests.support.mongo_source import INVALID_TEXT, Documents, Opener, db, order, reader, server
from tests.support.proxy import proxied

__all__ = ["db", "reader", "server"]


async def test_a_document_that_cannot_be_decoded(db: Documents, reader: Opener) -> None:
    """It becomes a dead letter with its key; those before and behind it are told, also from the place right behind it."""
    one = await reader()
    await db.thing.devices.insert_many([{"_id": "1"}, {"_id": "2", "name": INVALID_TEXT}, {"_id": "3"}])
    assert [change.id for change in await one.until_quiet()] == ["1", "3"]
    assert one.source.incidents == {Incident.UNREADABLE: 1}
    (letter,) = await db.companion.mqtt_dead_letters.find().to_list()
    assert letter["namespace"] == "thing.devices"
    assert letter["key"] == "2"
    assert "cannot be decoded" in letter["reason"]
    (behind,) = [item for item in one.items if item.change is None]
    await one.source.save(behind.position)
    assert [change.id for change in await (await reader(2)).until_quiet()] == ["3"]


async def test_large_events_come_in_parts(db: Documents, reader: Opener) -> None:
    """A split event is put together again."""
    await order(db, "split", on=True)
    one = await reader()
    await db.thing.devices.insert_many([{"_id": f"{number}", "owner": "alice"} for number in range(5)])
    changes = await one.read(5, limit=1)
    assert [change.after for change in changes] == [{"_id": f"{number}", "owner": "alice"} for number in range(5)]


async def test_a_server_that_cannot_split(db: Documents, reader: Opener) -> None:
    """An older MongoDB is asked without the stage that it does not know."""
    await order(db, "old", on=True)
    one = await reader()
    await db.thing.devices.insert_one({"_id": "1"})
    assert [change.id for change in await one.read(1)] == ["1"]


async def test_an_event_that_is_too_large(db: Documents, reader: Opener) -> None:
    """What the server cannot tell (10334) is a dead letter with its key, and the stream goes on behind it."""
    one = await reader()
    await one.until_quiet()
    await db.thing.devices.insert_many([{"_id": "large"}, {"_id": "next"}])
    for _ in range(2):
        await order(db, "error", code=10334, name="BSONObjectTooLarge")
        assert await one.source.read(64) == []
        # It opens itself anew when it is read; the fault is for open streams.
        if one.source.incidents == {}:
            await one.source._stream.open()  # type: ignore[union-attr]
    assert [change.id for change in await one.until_quiet()] == ["next"]
    (letter,) = await db.companion.mqtt_dead_letters.find().to_list()
    assert (letter["namespace"], letter["key"]) == ("thing.devices", "large")
    assert "16 MiB" in letter["reason"]


@pytest.mark.parametrize(
    ("code", "name"), [(189, "PrimarySteppedDown"), (43, "CursorNotFound"), (11600, "InterruptedAtShutdown")]
)
async def test_an_interruption(db: Documents, reader: Opener, code: int, name: str) -> None:
    """A primary that stepped down, or a cursor that is gone: `Transient`, and then on from the same place."""
    one = await reader()
    await db.thing.devices.insert_one({"_id": "1"})
    await one.read(1)
    await order(db, "error", code=code, name=name, labels=["ResumableChangeStreamError"])
    with pytest.raises(Transient, match="mongodb: ordered by a test"):
        await one.source.read(10)
    await db.thing.devices.insert_one({"_id": "2"})
    assert [change.id for change in await one.until_quiet()] == ["1", "2"]
    assert one.source.incidents == {}


async def test_a_dropped_database(db: Documents, reader: Opener) -> None:
    """The stream of one database ends with it (invalidate); the next one goes on behind that."""
    one = await reader(watch=("thing.*",))
    await db.thing.devices.insert_one({"_id": "1"})
    await db.drop_database("thing")
    await db.thing.devices.insert_one({"_id": "2"})
    ids = [change.id for change in await one.until_quiet() if change.op is ChangeOp.CREATE]
    assert ids == ["1", "2"]
    assert one.source.incidents == {}


async def test_the_server_in_a_black_hole(server: MongoServer, db: Documents, reader: Opener) -> None:
    """While nobody answers, reading says so in time; afterwards nothing is missing."""
    async with proxied(server.port) as proxy:
        url = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
        one = await reader(url=url, timeout=0.4)
        proxy.swallow()
        await db.thing.devices.insert_one({"_id": "1"})
        begun = time.monotonic()
        with pytest.raises(Transient):
            await one.source.read(10)
        assert time.monotonic() - begun < 5
        proxy.heal()
        assert [change.id for change in await one.read(1)] == ["1"]
        await one.source.close()
