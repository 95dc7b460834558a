"""Word of accounts and rules that somebody changed in MongoDB itself, and word from several places as one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from companion.background import background
from companion.core.model import Notice, Scope
from companion.stores.joining import JoinedNotices
from companion.stores.mongo.client import MongoConfig, open_mongo
from companion.stores.mongo.meaning import Meanings
from companion.stores.mongo.notices import MongoNotices
from companion.stores.mongo.stream import Raw
from tests.support.mongo import MongoServer, mongo_server
from tests.support.proxy import proxied
from tests.support.waiting import wait_until

EVERYTHING = Notice(Scope.EVERYTHING)
RULES = Notice(Scope.RULES)
MEANINGS = Meanings("companion")


def about(name: str) -> Notice:
    return Notice(Scope.ACCOUNT, name)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[MongoServer]:
    async with mongo_server(tmp_path) as running:
        yield running


@contextlib.asynccontextmanager
async def following(url: str, timeout: float = 1.0) -> AsyncIterator[list[Notice]]:  # noqa: ASYNC109 - the setting
    """Follow while the block runs, which begins once we listen; return what is told."""
    told: list[Notice] = []
    listens = asyncio.Event()

    async def follow() -> None:
        async with contextlib.aclosing(MongoNotices(client, MEANINGS).follow()) as words:  # type: ignore[type-var]
            async for notices in words:
                told.extend(notices)
                listens.set()

    async with open_mongo(MongoConfig(url, "companion", timeout)) as client, background(follow()):
        await asyncio.wait_for(listens.wait(), 10)
        yield told


async def test_what_others_write(server: MongoServer) -> None:
    """Whoever changes an account or a rule in MongoDB is heard: the account is named, also one that is gone."""
    async with AsyncMongoClient[dict[str, Any]](server.url) as client, following(server.url) as told:
        db = client.companion
        await db.mqtt_audits.insert_one({"at": 1})
        steps = (
            (db.mqtt_accounts.insert_one({"username": "alice"}), {about("alice")}),
            (db.mqtt_accounts.update_one({"username": "alice"}, {"$set": {"disabled": True}}), {about("alice")}),
            (
                db.mqtt_accounts.update_one({"username": "alice"}, {"$set": {"username": "bob"}}),
                {about("alice"), about("bob")},
            ),
            (db.mqtt_accounts.delete_one({"username": "bob"}), {about("bob")}),
            (db.mqtt_rules.insert_one({"subject": "everyone"}), {RULES}),
            (db.mqtt_rules.delete_many({}), {RULES}),
            (db.mqtt_accounts.insert_one({"name": "of no use"}), {EVERYTHING}),
        )
        for step, notices in steps:
            told.clear()
            await step
            await wait_until(lambda notices=notices: set(told) == notices, 10, f"{notices}")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "after", "before", "updated", "told"),
    [
        ("update", "a", None, "x", about("a")),
        ("insert", "a", None, "", about("a")),
        ("update", "a", None, "username", EVERYTHING),
        ("update", None, None, "x", EVERYTHING),
        ("replace", "a", None, "", EVERYTHING),
        ("delete", None, None, "", EVERYTHING),
        ("delete", None, "a", "", about("a")),
        ("delete", None, 7, "", EVERYTHING),
    ],
)
def test_without_a_picture_of_before(kind: str, after: object, before: object, updated: str, told: Notice) -> None:
    """Where an event does not say whom it concerns, it concerns everybody."""
    event: dict[str, Any] = {"operationType": kind, "ns": {"db": "companion", "coll": "mqtt_accounts"}}
    if after is not None:
        event["fullDocument"] = {"username": after}
    if before is not None:
        event["fullDocumentBeforeChange"] = {"username": before}
    if updated:
        event["updateDescription"] = {"updatedFields": {updated: 1}}
    assert MEANINGS.of(Raw({}, event)) == [told]


async def test_the_server_in_a_black_hole(server: MongoServer) -> None:
    """What changes while nobody answers is told afterwards."""
    async with (
        AsyncMongoClient[dict[str, Any]](server.url) as client,
        proxied(server.port) as proxy,
        following(f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true", 0.3) as told,
    ):
        for fault in (proxy.reset, proxy.swallow):
            told.clear()
            fault()
            await client.companion.mqtt_accounts.insert_one({"username": "alice"})
            await asyncio.sleep(1.0)
            proxy.heal()
            await wait_until(lambda: told == [about("alice")], 20, "what was missed is told")


async def test_killed_and_back(server: MongoServer) -> None:
    """After `kill -9` of the server, following goes on behind what was told."""
    async with AsyncMongoClient[dict[str, Any]](server.url) as client, following(server.url) as told:
        server.kill()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.start)
        await client.companion.mqtt_accounts.insert_one({"username": "alice"})
        await wait_until(lambda: told == [about("alice")], 20, "it is told")


async def test_a_lost_history(server: MongoServer) -> None:
    """Nobody knows what was missed: everything; then it goes on."""
    async with AsyncMongoClient[dict[str, Any]](server.url) as client, following(server.url) as told:
        fault = {"companionFault": "error", "code": 286, "name": "ChangeStreamHistoryLost"}
        await client.admin.command(fault)
        await wait_until(lambda: told == [EVERYTHING], 10, "everything is told")
        await client.companion.mqtt_accounts.insert_one({"username": "alice"})
        await wait_until(lambda: told == [EVERYTHING, about("alice")], 10, "the next is told")


class Words:
    """A half of a joined port, whose words come when the test says so."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[Sequence[Notice]] = asyncio.Queue()
        self.closed = False
        self.announced: list[Notice] = []

    async def announce(self, notice: Notice) -> None:
        self.announced.append(notice)

    async def follow(self) -> AsyncIterator[Sequence[Notice]]:
        try:
            while True:
                yield await self.words.get()
        finally:
            self.closed = True


async def test_joined() -> None:
    """The first word comes when all listen; then whatever any of them tells; closing closes all."""
    one, two = Words(), Words()
    joined = JoinedNotices(one, two.follow)
    await joined.announce(RULES)
    assert one.announced == [RULES]
    async with contextlib.aclosing(joined.follow()) as words:  # type: ignore[type-var]
        one.words.put_nowait(())
        one.words.put_nowait([about("early")])
        asyncio.get_running_loop().call_later(0.05, two.words.put_nowait, ())
        assert await anext(words) == ()
        assert await anext(words) == [about("early")]
        for half, notice in ((one, about("a")), (two, about("b"))):
            half.words.put_nowait([notice])
            assert await anext(words) == [notice]
    assert one.closed
    assert two.closed


async def test_one_that_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens serves alone; what the other may have missed until it listens is everything."""
    monkeypatch.setattr("companion.stores.joining._TOGETHER_SECONDS", 0.05)
    one, two = Words(), Words()
    async with contextlib.aclosing(JoinedNotices(one, two.follow).follow()) as words:  # type: ignore[type-var]
        first = asyncio.ensure_future(anext(words))
        await asyncio.sleep(0.2)
        assert not first.done()
        one.words.put_nowait(())
        assert await first == ()
        one.words.put_nowait([RULES])
        assert await anext(words) == [RULES]
        two.words.put_nowait(())
        assert list(await anext(words)) == [EVERYTHING]
