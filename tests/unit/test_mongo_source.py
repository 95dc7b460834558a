"""Change streams of MongoDB as a source of changes, and what is done when their history is lost."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from companion.core.errors import CompanionError, Fenced, Permanent, Transient
from companion.core.model import Change, ChangeOp, Incident
from companion.core.ports import Item
from companion.stores.mongo import source as module
from companion.stores.mongo.checkpoints import MongoCheckpoints
from companion.stores.mongo.client import MongoConfig, open_mongo
from companion.stores.mongo.source import MongoSource
from companion.stores.mongo.watching import scope_of
from tests.support.mongo import MongoServer, mongo_server
from tests.support.proxy import proxied

PATIENCE = 20.0
FAULT = "companionFault"
INVALID_TEXT = "\x7fNOT UTF-8\x7f"
"""The stand-in sends it as bytes that are no text."""

WATCH = ("thing.*", "domain.clients")
Documents = Any


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[MongoServer]:
    async with mongo_server(tmp_path) as running:
        yield running


@pytest.fixture
async def db(server: MongoServer) -> AsyncIterator[Documents]:
    """Open the databases, as anybody may write to them."""
    async with AsyncMongoClient[dict[str, Any]](server.url) as client:
        yield client


class Reader:
    """A source that is read as the pipeline reads it."""

    def __init__(self, source: MongoSource) -> None:
        self.source = source
        self.items: list[Item] = []

    @property
    def changes(self) -> list[Change]:
        return [item.change for item in self.items if item.change is not None]

    async def read(self, count: int, limit: int = 64) -> list[Change]:
        """Read until so many changes came, patiently."""
        async with asyncio.timeout(PATIENCE):
            while len(self.changes) < count:
                try:
                    self.items += await self.source.read(limit)
                except Transient:
                    await asyncio.sleep(0.05)
        return self.changes

    async def until_quiet(self) -> list[Change]:
        """Read until nothing comes and no place is looked for."""
        quiet = 0
        async with asyncio.timeout(PATIENCE):
            while quiet < 2:
                try:
                    items = await self.source.read(64)
                except Transient:
                    continue
                self.items += items
                quiet = 0 if items or self.source._place.catch is not None else quiet + 1
        return self.changes


class Opener:
    """Opens sources over clients that are closed with the test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stack: list[Any] = []

    async def __call__(
        self,
        fence: int = 1,
        watch: Sequence[str] = WATCH,
        batch: int = 500,
        url: str = "",
        timeout: float = 1.0,  # noqa: ASYNC109 - the setting
    ) -> Reader:
        opened = open_mongo(MongoConfig(url or self.url, "companion", timeout))
        client = await opened.__aenter__()
        source = MongoSource(client, MongoCheckpoints(client), scope_of(watch, "companion"), batch)
        self.stack.append((source, opened))
        await source.open(fence)
        return Reader(source)


@pytest.fixture
async def reader(server: MongoServer) -> AsyncIterator[Opener]:
    opener = Opener(server.url)
    yield opener
    for source, opened in opener.stack:
        await source.close()
        await opened.__aexit__(None, None, None)


async def order(db: Documents, kind: str, **options: object) -> None:
    await db.admin.command({FAULT: kind, **options})


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


def times(seconds_ago: float, *names: str) -> dict[str, Any]:
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds_ago)
    return dict.fromkeys(names, moment)


async def lose(db: Documents, code: int) -> None:
    name = {286: "ChangeStreamHistoryLost", 280: "ChangeStreamFatalError", 260: "InvalidResumeToken"}[code]
    await order(db, "error", code=code, name=name)


@pytest.mark.parametrize("code", [286, 280, 260])
@pytest.mark.parametrize("indexes", [(), ("updated_at",), ("updated_at", "created_at", "deleted_at", "restored_at")])
async def test_a_lost_history(db: Documents, reader: Opener, code: int, indexes: Sequence[str]) -> None:
    """It is counted and recorded; what changed since is found once, and what follows is told by the new stream."""
    for name in indexes:
        await db.thing.devices.create_index(name)
    old = {"created_at": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}
    one = await reader()
    await db.thing.devices.insert_many(
        [
            {"_id": "old", **old, **times(100_000, "updated_at")},
            {"_id": "new", **times(5, "created_at", "updated_at")},
            {"_id": "updated", **old, **times(4, "updated_at")},
            {"_id": "deleted", **old, **times(3, "deleted_at")},
            {"_id": "restored", **old, **times(2, "restored_at"), "deleted_at": None},
            {"_id": "spoilt", **times(1, "updated_at"), "name": INVALID_TEXT},
        ]
    )
    await one.source._stream.open()  # type: ignore[union-attr]
    await lose(db, code)
    found = await one.until_quiet()
    op = ChangeOp
    assert {change.id: change.op for change in found} == {
        "new": op.CREATE,
        "updated": op.UPDATE,
        "deleted": op.DELETE,
        "restored": op.RESTORE,
    }
    assert len(found) == 4
    assert one.source.incidents == {Incident.HISTORY_LOST: 1, Incident.RESYNCHRONISED: 5, Incident.UNREADABLE: 1}
    (run,) = await db.companion.mqtt_runs.find().to_list()
    assert (run["job"], run["trigger"], run["state"], run["done"]) == ("resync", "incident", "done", 5)
    assert run["parameters"]["since"] < run["parameters"]["until"] <= run["ended_at"] / 1000
    assert str(code) in run["parameters"]["reason"]
    (letter,) = await db.companion.mqtt_dead_letters.find().to_list()
    assert letter["key"] == "spoilt"
    await db.thing.devices.update_one({"_id": "old"}, {"$set": {"n": 1}})
    assert (await one.read(5))[-1].id == "old"
    await one.source.save(one.items[-1].position)
    assert await (await reader(2)).until_quiet() == []


async def test_a_history_that_ended_while_we_were_away(db: Documents, reader: Opener) -> None:
    """The log was cut off before the saved place: what it held is found by its times."""
    one = await reader()
    await one.source.close()
    await db.thing.devices.insert_one({"_id": "unseen", **times(0, "created_at", "updated_at")})
    await order(db, "forget")
    two = await reader(2)
    assert [(change.id, change.op) for change in await two.until_quiet()] == [("unseen", ChangeOp.CREATE)]
    assert two.source.incidents[Incident.HISTORY_LOST] == 1


@pytest.mark.parametrize("stop", [1, 3, 5, 8])
async def test_a_resynchronisation_goes_on_after_a_death(db: Documents, reader: Opener, stop: int) -> None:
    """Its place is part of the position: who takes over finds the rest, and what comes twice has the same event id."""
    await db.thing.devices.create_index("updated_at")
    one = await reader(batch=2)
    names = [f"{number}" for number in range(6)]
    for seconds, name in enumerate(names):
        await db.thing.devices.insert_one({"_id": name, **times(30 - seconds, "created_at", "updated_at")})
        await db.domain.clients.insert_one({"_id": name, **times(30, "created_at")})
    await one.source.close()
    await order(db, "forget")
    await one.read(stop)
    await one.source.save(one.items[stop - 1].position)
    two = await reader(2, batch=2)
    await two.until_quiet()
    both = {change.event_id: change.entity for change in [*one.changes[:stop], *two.changes]}
    assert sorted(both.values()) == sorted(
        [("thing", "devices", name) for name in names] + [("domain", "clients", name) for name in names]
    )
    (run,) = await db.companion.mqtt_runs.find().to_list()
    assert run["state"] == "done"


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
