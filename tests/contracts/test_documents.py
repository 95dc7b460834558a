"""The port `Documents`, over the collection that every store has: audit records."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from companion.core.errors import CompanionError, Fenced, Invalid
from companion.core.ports import Lease, Removed, Selection, Store, Stored
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


def topics(stored: Sequence[Stored]) -> list[str]:
    return [json.loads(one.line)["topic"] for one in stored]


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
    found: list[Stored] = []
    while page := await store.documents.due(WHAT, selection, found[-1].id if found else "", 4):
        assert len(page) <= 4
        found += page
    assert topics(found) == [f"é/{n}" for n in range(6)]
    assert len({one.id for one in found}) == 6
    assert all(b"\n" not in one.line for one in found)
    assert list(store.documents.read(WHAT, [one.line for one in found])) == found


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
    found = await store.documents.due(WHAT, selection, "", 100)
    assert topics(found) == [f"é/{n}" for n in wanted]
    assert await store.documents.count_due(WHAT, selection) == len(wanted)
    held = await store.documents.due(WHAT, due(), "", 100)
    removed = await store.documents.remove(WHAT, selection, held, await take(store), unchanged=False)
    assert removed == Removed(len(wanted))
    assert len(await left(store)) == 10 - len(wanted)


async def test_removing(store: Store) -> None:
    """Those that were named go, once; the others stay."""
    await fill(store)
    selection, lease = due(), await take(store)
    found = await store.documents.due(WHAT, selection, "", 3)
    for unchanged in (True, False):
        more = await store.documents.due(WHAT, selection, found[-1].id, 3)
        assert await store.documents.remove(WHAT, selection, found, lease, unchanged=unchanged) == Removed(3)
        assert await store.documents.remove(WHAT, selection, found, lease, unchanged=unchanged) == Removed(0)
        found = more
    assert await left(store) == [f"é/{n}" for n in range(6, 10)]
    assert await store.documents.remove(WHAT, selection, [], lease, unchanged=True) == Removed(0)


async def test_what_has_changed_stays(store: Store) -> None:
    """A document that is not what was archived is not removed."""
    await fill(store, 3)
    found = list(await store.documents.due(WHAT, due(), "", 3))
    found[1] = found[1]._replace(line=found[1].line.replace(b"wrong_password", b"unknown_user"))
    assert await store.documents.remove(WHAT, due(), found, await take(store), unchanged=True) == Removed(2, 1)
    assert await left(store) == ["é/1"]


async def test_fences(store: Store, other: Store) -> None:
    """After a later lease of the same job an earlier one removes nothing."""
    await fill(store)
    old = await take(store)
    await store.leases.release(old)
    new = await take(other)
    found = await store.documents.due(WHAT, due(), "", 4)
    assert await other.documents.remove(WHAT, due(), found[:2], new, unchanged=True) == Removed(2)
    for unchanged in (True, False):
        with pytest.raises(Fenced):
            await store.documents.remove(WHAT, due(), found[2:], old, unchanged=unchanged)
    assert len(await left(store)) == 8
    another = await take(store, "job:y")
    assert await store.documents.remove(WHAT, due(), found[2:3], another, unchanged=True) == Removed(1)


async def test_restoring(store: Store) -> None:
    """What was removed comes back as it was, as often as it is said; what is there is not touched."""
    await fill(store)
    before = list(await store.audits.latest(100))
    found = await store.documents.due(WHAT, due(), "", 6)
    await store.documents.remove(WHAT, due(), found[:4], await take(store), unchanged=True)
    assert await store.documents.restore(WHAT, [one.line for one in found]) == 4
    assert await store.documents.restore(WHAT, [one.line for one in found]) == 0
    assert await store.documents.restore(WHAT, []) == 0
    assert list(await store.documents.due(WHAT, due(), "", 6)) == list(found)
    assert sorted(await store.audits.latest(100), key=lambda one: one.at) == sorted(before, key=lambda one: one.at)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"7", b'{"a": 1}', b"\xff"])
async def test_lines_that_are_none(store: Store, line: bytes) -> None:
    """They are refused, and nothing of what comes with them is taken."""
    await fill(store, 1)
    (good,) = await store.documents.due(WHAT, due(), "", 1)
    await store.documents.remove(WHAT, due(), [good], await take(store), unchanged=True)
    with pytest.raises(Invalid):
        await store.documents.restore(WHAT, [good.line, line])
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
        found = await ports.documents.due("things", Selection("when", NOW), "", 100)
        assert [one.id for one in found] == ['"00"', '"01"', '"02"', '"03"']
        await ports.documents.check("things", Selection("when", NOW, {"a": {"$gt": 1}}))
        with pytest.raises(CompanionError):
            await ports.documents.check("things", Selection("when", NOW, {"$where": "1"}))
