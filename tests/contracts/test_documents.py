"""The port `Documents`, over the collection that every store has: audit records."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from bson import Int64, ObjectId

from companion.core.errors import CompanionError, Fenced, Invalid
from companion.core.ports import Batch, Lease, Removed, Replaced, Replacement, Selection, Store
from tests.support.adapters import ADAPTERS
from tests.support.entities import audit
from tests.support.mongo import MongoPorts

PORTS = {"leases", "audits", "documents"}
WHAT = "mqtt_audits"
DAY = 86_400_000
NOW = 20_000 * DAY
"""In the year 2024: ids of MongoDB are made now, which is later, so that ages here are far in the past."""


def due(before: int = NOW, **more: Mapping[str, Any]) -> Selection:
    return Selection("at", before, **more)


async def fill(store: Store, count: int = 10) -> None:
    """Append one record a day, up to the moment before now; every third by another user."""
    records = [audit(NOW - (count - n) * DAY, username=("a", "b", "c")[n % 3], topic=f"é/{n}") for n in range(count)]
    await store.audits.append(records)


async def take(store: Store, name: str = "job:x") -> Lease:
    lease = await store.leases.acquire(name, "me", 60)
    assert isinstance(lease, Lease)
    return lease


def topics(lines: bytes) -> list[str]:
    return [json.loads(line)["topic"] for line in lines.splitlines()]


async def found(store: Store, selection: Selection, limit: int = 100, after: str = "") -> Batch:
    batch = await store.documents.due(WHAT, selection, after, limit)
    assert batch is not None
    return batch


async def left(store: Store) -> list[str]:
    return [one.topic for one in await store.audits.latest(100)][::-1]


@pytest.fixture(autouse=True)
def _ids_of_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be too young by its id: what the tests store is made now."""
    monkeypatch.setattr("companion.stores.mongo.documents._YOUNGER_SECONDS", 1_000_000_000)


async def test_what_is_due(store: Store) -> None:
    """What is older than the limit, oldest first, page by page; counted as it is found."""
    await fill(store)
    selection = due(NOW - 4 * DAY)
    assert await store.documents.count(WHAT) == 10
    assert await store.documents.count_due(WHAT, selection) == 6
    first = await found(store, selection, 4)
    second = await found(store, selection, 4, first.last)
    assert await store.documents.due(WHAT, selection, second.last, 4) is None
    assert (first.count, second.count) == (4, 2)
    assert topics(first.lines + second.lines) == [f"é/{n}" for n in range(6)]
    assert len({first.first, first.last, second.first, second.last}) == 4
    for batch in (first, second):
        assert store.documents.read(WHAT, batch.lines) == batch
    ids = await store.documents.due(WHAT, selection, first.last, 4, lines=False)
    assert ids == replace(second, lines=b"")


async def test_several_batches(store: Store) -> None:
    """Each is what would be due behind the one before it; a store may give fewer than were asked for, and none only at the end."""
    await fill(store)
    for lines in (True, False):
        read: list[Batch] = []
        while some := await store.documents.due_batches(WHAT, due(), read[-1].last if read else "", 3, 2, lines=lines):
            assert len(some) <= 2
            read += some
        after = ""
        for batch in read:
            assert batch == await store.documents.due(WHAT, due(), after, 3, lines=lines)
            after = batch.last
        assert [batch.count for batch in read] == [3, 3, 3, 1]


@pytest.mark.parametrize(
    ("query", "hold", "wanted"),
    [
        ({"username": "a"}, {}, [0, 3, 6, 9]),
        ({"username": {"$in": ["a", "b"]}}, {}, [0, 1, 3, 4, 6, 7, 9]),
        ({"username": "a", "topic": "é/3"}, {}, [3]),
        ({}, {"username": "a"}, [1, 2, 4, 5, 7, 8]),
        ({"username": "a"}, {"topic": {"$in": ["é/0", "é/9"]}}, [3, 6]),
        ({"username": "nobody"}, {}, []),
    ],
)
async def test_filters(store: Store, query: dict[str, Any], hold: dict[str, Any], wanted: list[int]) -> None:
    """Only what fits the query is due, and never what fits the hold."""
    await fill(store)
    selection = due(query=query, hold=hold)
    batch = await store.documents.due(WHAT, selection, "", 100)
    assert topics(batch.lines if batch else b"") == [f"é/{n}" for n in wanted]
    assert await store.documents.count_due(WHAT, selection) == len(wanted)
    held = await found(store, due())
    removed = await store.documents.remove(WHAT, selection, held, await take(store), unchanged=False)
    assert removed == Removed(len(wanted))
    assert len(await left(store)) == 10 - len(wanted)


async def test_removing(store: Store) -> None:
    """Those that were named go, once; the others stay."""
    await fill(store)
    selection, lease = due(), await take(store)
    batch = await found(store, selection, 3)
    for unchanged in (True, False):
        more = await found(store, selection, 3, batch.last)
        assert await store.documents.remove(WHAT, selection, batch, lease, unchanged=unchanged) == Removed(3)
        assert await store.documents.remove(WHAT, selection, batch, lease, unchanged=unchanged) == Removed(0)
        batch = more
    assert await left(store) == [f"é/{n}" for n in range(6, 10)]


async def test_what_has_changed_stays(store: Store) -> None:
    """A document that is not what was archived is not removed."""
    await fill(store, 3)
    first, second, third = (await found(store, due(), 3)).lines.splitlines(keepends=True)
    batch = store.documents.read(WHAT, first + second.replace(b"wrong_password", b"unknown_user") + third)
    assert await store.documents.remove(WHAT, due(), batch, await take(store), unchanged=True) == Removed(2, 1)
    assert await left(store) == ["é/1"]


async def test_what_came_between_stays(store: Store) -> None:
    """What lies between the ids of what was archived, and was not archived itself, is not removed."""
    await fill(store, 5)
    first, second, third, *_ = (await found(store, due())).lines.splitlines(keepends=True)
    batch = store.documents.read(WHAT, first + third)
    assert await store.documents.remove(WHAT, due(), batch, await take(store), unchanged=True) == Removed(2)
    assert await left(store) == ["é/1", "é/3", "é/4"]
    assert (await found(store, due(), 1)).lines == second


async def rewrite(store: Store, what: str, selection: Selection, lease: Lease) -> None:
    """Put something else in the place of the first record, or something where one was removed, or only add one."""
    first = await found(store, selection, 1)
    if what == "another":
        await store.documents.replace(WHAT, [renamed(first.lines.strip(), "x")], lease)
    elif what == "back":
        await store.documents.remove(WHAT, selection, first, lease, unchanged=True)
        await store.documents.restore(WHAT, first.lines.splitlines())
    else:
        await store.audits.append([audit(NOW - 50 * DAY, topic="new")])


async def test_removing_as_read(store: Store) -> None:
    """What was read goes, once, without its lines, where the store marks it; elsewhere nothing is removed."""
    await fill(store)
    lease, batch = await take(store), await found(store, due(), 3)
    known = replace(batch, lines=b"", ids=())
    await rewrite(store, "new", due(), lease)
    if batch.mark:
        assert await store.documents.remove_as_read(WHAT, due(), known, lease) == Removed(3)
        assert await store.documents.remove_as_read(WHAT, due(), known, lease) == Removed(0)
        assert await left(store) == [*(f"é/{n}" for n in range(3, 10)), "new"]
    before = await left(store)
    unmarked = replace(await found(store, due(), 3), mark="")
    assert await store.documents.remove_as_read(WHAT, due(), unmarked, lease) is None
    assert await left(store) == before


@pytest.mark.parametrize("what", ["another", "back"])
async def test_what_is_not_known_any_more(store: Store, other: Store, what: str) -> None:
    """Once somebody has rewritten something, in whichever process, a batch that was read before is not removed as it was read."""
    await fill(store)
    lease, batch = await take(store), await found(store, due(), 3)
    await rewrite(other, what, due(), lease)
    assert await store.documents.remove_as_read(WHAT, due(), batch, lease) is None
    assert len(await left(store)) == 10
    again = await found(store, due(), 3)
    assert await store.documents.remove_as_read(WHAT, due(), again, lease) == (Removed(3) if again.mark else None)


async def test_fences(store: Store, other: Store) -> None:
    """After a later lease of the same job an earlier one removes nothing."""
    await fill(store)
    old = await take(store)
    await store.leases.release(old)
    new = await take(other)
    first = await found(store, due(), 2)
    second = await found(store, due(), 1, first.last)
    assert await other.documents.remove(WHAT, due(), first, new, unchanged=True) == Removed(2)
    for unchanged in (True, False):
        with pytest.raises(Fenced):
            await store.documents.remove(WHAT, due(), second, old, unchanged=unchanged)
    if second.mark:
        with pytest.raises(Fenced):
            await store.documents.remove_as_read(WHAT, due(), second, old)
    assert len(await left(store)) == 8
    another = await take(store, "job:y")
    assert await store.documents.remove(WHAT, due(), second, another, unchanged=True) == Removed(1)


async def test_restoring(store: Store) -> None:
    """What was removed comes back as it was, as often as it is said; what is there is not touched."""
    await fill(store)
    before = list(await store.audits.latest(100))
    batch = await found(store, due(), 6)
    await store.documents.remove(WHAT, due(), await found(store, due(), 4), await take(store), unchanged=True)
    assert await store.documents.restore(WHAT, batch.lines.splitlines()) == 4
    assert await store.documents.restore(WHAT, batch.lines.splitlines()) == 0
    assert await store.documents.restore(WHAT, []) == 0
    assert await store.documents.due(WHAT, due(), "", 6) == batch
    assert sorted(await store.audits.latest(100), key=lambda one: one.at) == sorted(before, key=lambda one: one.at)


async def test_what_has_a_value(store: Store) -> None:
    """Documents with one of the values are found page by page, in the order of their ids, without what is held."""
    await fill(store)
    lines, after = b"", ""
    while page := await store.documents.matching(
        WHAT, "username", ["a", "c", "nobody"], hold={"topic": "é/3"}, after=after, limit=2
    ):
        assert page.count == len(page.lines.splitlines()) <= 2
        lines, after = lines + page.lines, page.last
    assert topics(lines) == [f"é/{n}" for n in (0, 2, 5, 6, 8, 9)]
    assert lines.splitlines()[0] == (await found(store, due(), 1)).lines.strip()
    assert await store.documents.matching(WHAT, "username", [], hold={}, after="", limit=10) is None


def renamed(line: bytes, new: str) -> Replacement:
    document = json.loads(line)
    document["username"] = new
    return Replacement(line, json.dumps(document, separators=(",", ":")).encode())


async def first_lines(store: Store, count: int) -> list[bytes]:
    return (await found(store, due(), count)).lines.splitlines()


async def users(store: Store) -> list[str]:
    return [one.username for one in await store.audits.latest(100)][::-1]


async def test_replacing(store: Store) -> None:
    """What was named is as it was wanted, once; the others, and all other fields, are as they were."""
    await fill(store, 4)
    lease, before = await take(store), await store.audits.latest(100)
    wanted = [renamed(line, "é") for line in await first_lines(store, 2)]
    assert await store.documents.replace(WHAT, wanted, lease) == Replaced(2)
    assert await users(store) == ["é", "é", "c", "a"]
    after = await store.audits.latest(100)
    assert [one._replace(username="") for one in after] == [one._replace(username="") for one in before]
    assert await store.documents.replace(WHAT, [], lease) == Replaced(0)
    # Whoever does it again does not find what was there.
    assert await store.documents.replace(WHAT, wanted, lease) == Replaced(0, 2)
    page = await store.documents.matching(WHAT, "username", ["é"], hold={}, after="", limit=9)
    assert page is not None
    assert topics(page.lines) == ["é/0", "é/1"]


async def test_what_has_changed_is_not_replaced(store: Store) -> None:
    """Of what somebody else has changed or removed nothing is overwritten, and nothing comes back."""
    await fill(store, 3)
    lease = await take(store)
    lines = await first_lines(store, 3)
    await store.documents.replace(WHAT, [renamed(lines[0], "other")], lease)
    gone = store.documents.read(WHAT, lines[1] + b"\n")
    assert await store.documents.remove(WHAT, due(), gone, lease, unchanged=True) == Removed(1)
    assert await store.documents.replace(WHAT, [renamed(one, "mine") for one in lines], lease) == Replaced(1, 1)
    assert await users(store) == ["other", "mine"]


async def test_replacing_under_a_fence(store: Store, other: Store) -> None:
    """After a later lease of the same job an earlier one replaces nothing."""
    await fill(store, 2)
    old = await take(store)
    await store.leases.release(old)
    new = await take(other)
    first, second = await first_lines(store, 2)
    assert await other.documents.replace(WHAT, [renamed(first, "x")], new) == Replaced(1)
    with pytest.raises(Fenced):
        await store.documents.replace(WHAT, [renamed(second, "x")], old)
    assert await users(store) == ["x", "b"]


async def test_replacing_by_another(store: Store) -> None:
    """A document does not become another one, nor what is none; then none of them is replaced."""
    await fill(store, 2)
    lease = await take(store)
    first, second = await first_lines(store, 2)
    for line in (first, b"{}", b"[]", b"\xff"):
        with pytest.raises(Invalid):
            await store.documents.replace(WHAT, [renamed(first, "x"), Replacement(second, line)], lease)
    assert await users(store) == ["a", "b"]


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"7", b'{"a": 1}', b"\xff"])
async def test_lines_that_are_none(store: Store, line: bytes) -> None:
    """They are refused, and nothing of what comes with them is taken."""
    await fill(store, 1)
    good = await found(store, due(), 1)
    await store.documents.remove(WHAT, due(), good, await take(store), unchanged=True)
    with pytest.raises(Invalid):
        await store.documents.restore(WHAT, [good.lines, line])
    assert await left(store) == []


@pytest.mark.parametrize(
    ("collection", "selection"),
    [("admin.system.users", Selection("at", NOW)), (".x", Selection("at", NOW)), ("a.$b", Selection("at", NOW))],
)
async def test_collections_that_are_none(store: Store, collection: str, selection: Selection) -> None:
    """They are refused before anything is done."""
    with pytest.raises(Invalid):
        await store.documents.check(collection, selection)


async def test_only_what_is_known_here(tmp_path: Any) -> None:
    """The embedded store knows its tables, their times and columns, equality and lists."""
    async with ADAPTERS["embedded"].make(tmp_path)() as store:
        await store.documents.check(WHAT, due(query={"username": {"$in": ["a"]}}))
        for collection, selection, field in (
            ("thing.metrics", due(), "collection"),
            (WHAT, Selection("created_at", NOW), "time"),
            (WHAT, due(query={"colour": 1}), "query.colour"),
            (WHAT, due(query={"username": {"$gt": "a"}}), "query.username"),
            (WHAT, due(hold={"username": {"$in": "a"}}), "hold.username"),
        ):
            with pytest.raises(Invalid) as problem:
                await store.documents.check(collection, selection)
            assert problem.value.field == field


async def test_times_of_every_kind(tmp_path: Any) -> None:
    """In MongoDB a time is a date, or a number of milliseconds or of seconds; what is none, or is not there, is never due."""
    async with ADAPTERS["mongo"].make(tmp_path)() as opened:
        ports: MongoPorts = opened
        things = ports.client.database["things"]
        old, young = NOW - DAY, NOW + DAY
        values: list[Any] = [old, old // 1000, old / 1000, dt.datetime.fromtimestamp(old / 1000, dt.UTC)]
        values += [young, young // 1000, dt.datetime.fromtimestamp(young / 1000, dt.UTC), None, "2020-01-01", True, {}]
        await things.insert_many([{"_id": f"{n:02}", "when": value} for n, value in enumerate(values)])
        await things.insert_one({"_id": "none"})
        batch = await ports.documents.due("things", Selection("when", NOW), "", 100)
        assert batch is not None
        assert batch.ids == ["00", "01", "02", "03"]
        assert (batch.first, batch.last) == ('"00"', '"03"')
        await ports.documents.check("things", Selection("when", NOW, {"a": {"$gt": 1}}))
        with pytest.raises(CompanionError):
            await ports.documents.check("things", Selection("when", NOW, {"$where": "1"}))


async def test_fields_of_every_kind(tmp_path: Any) -> None:
    """In MongoDB texts stand for ids too, lists hold values, ids are of several types, and what stays is not written."""
    async with ADAPTERS["mongo"].make(tmp_path)() as opened:
        ports: MongoPorts = opened
        things = ports.client.database["things"]
        owner = ObjectId()
        odd = {"long": Int64(7), "bytes": b"x", "when": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}
        await things.insert_many(
            [
                {"_id": 1, "owner": owner, **odd},
                {"_id": 2, "owner": "somebody"},
                {"_id": "a", "owner": str(owner), "a.b": 1},
                {"_id": "b", "owner": [ObjectId(), owner]},
                {"_id": ObjectId(), "owner": owner, "held": True},
                {"_id": ObjectId(), "owner": owner},
            ]
        )
        lines: list[bytes] = []
        after = ""
        while page := await ports.documents.matching(
            "things", "owner", [str(owner)], hold={"held": True}, after=after, limit=1
        ):
            lines, after = [*lines, *page.lines.splitlines()], page.last
        documents = [json.loads(line) for line in lines]
        assert [type(one["_id"]) for one in documents] == [dict, str, str, dict]
        wanted = [
            Replacement(line, json.dumps(one | {"owner": "gone"}).encode())
            for line, one in zip(lines, documents, strict=True)
        ]
        lease = Lease("job:x", "me", 1)
        assert await ports.documents.replace("things", wanted, lease) == Replaced(4)
        assert await things.find_one({"_id": 1}) == {"_id": 1, "owner": "gone", **odd}
        assert await things.find_one({"_id": "a"}) == {"_id": "a", "owner": "gone", "a.b": 1}
        assert await things.count_documents({"owner": "gone"}) == 4
