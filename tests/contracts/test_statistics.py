"""The port `Statistics`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import pytest

from companion.core.errors import Fenced
from companion.core.ports import Store
from companion.core.stats import Bucket, Calendar, Increments, Slot, Stat
from tests.support.adapters import Open
from tests.support.entities import HOSTILE

PORTS = {"statistics"}

KEY = "THING_COUNT__CREATE_METRICS"
NEW_YEAR = dt.date(2026, 1, 1)
NEVER = dt.date(9999, 12, 31)
OWNER = "65f1a2b3c4d5e6f708192a3b"


def slot(day: int = 1, hour: int = 0, *, month: int = 1, owner: str = OWNER, key: str = KEY, flag: str = "") -> Slot:
    return Slot(owner, key, flag, 2026, month, day, hour)


def values(found: Sequence[Stat]) -> Sequence[Mapping[int, int]]:
    """Return what is not nothing, by its place."""
    return [{place: value for place, value in enumerate(stat.values) if value} for stat in found]


async def daily(store: Store, owner: str = OWNER) -> Sequence[Mapping[int, int]]:
    return values(await store.statistics.read(owner, Calendar.DAILY, dt.date.min, NEVER))


async def counted(store: Store, *additions: Increments) -> None:
    """Count and flush, under a new fence."""
    fence = 1 + int((await store.statistics.positions()).get("fence", "0"))
    await store.statistics.claim(fence)
    for step, added in enumerate(additions, 1):
        await store.statistics.apply(fence, step, "fence", str(fence), added)
    await store.statistics.flush(fence, len(additions) + 1)


async def test_nothing_at_first(store: Store) -> None:
    """Without an observer nothing is counted, and no reader has come anywhere."""
    assert await daily(store) == []
    assert await store.statistics.positions() == {}
    assert await store.statistics.claim(1) == {}
    assert await store.statistics.flush(1, 1) == 0


async def test_a_slot_in_three_calendars(store: Store, other: Store) -> None:
    """An hour is found in its day, its month and its year, by whoever looks; what is added again is added to it."""
    await counted(store, {slot(31, 23, month=12): 3, slot(30, 0, month=12): 1}, {slot(31, 23, month=12): 39})
    last, before = dt.date(2026, 12, 31), dt.date(2026, 12, 30)
    for each in (store, other):
        (day,) = await each.statistics.read(OWNER, Calendar.DAILY, last, last)
        assert day == Stat(Bucket(Calendar.DAILY, OWNER, KEY, "", 2026, 12, 31), (0,) * 23 + (42,))
        (month,) = await each.statistics.read(OWNER, Calendar.MONTHLY, before, before)
        assert month == Stat(Bucket(Calendar.MONTHLY, OWNER, KEY, "", 2026, 12), (0,) * 29 + (1, 42))
        (year,) = await each.statistics.read(OWNER, Calendar.YEARLY, NEW_YEAR, NEW_YEAR)
        assert year == Stat(Bucket(Calendar.YEARLY, OWNER, KEY, "", 2026), (0,) * 11 + (43,))


async def test_only_the_days_asked_for(store: Store) -> None:
    """Records outside the days are left out, those at their ends are not; months and years are told whole."""
    await counted(store, {slot(day, month=month): day for day in (1, 15, 28) for month in (1, 2, 3)})
    first, last = dt.date(2026, 1, 28), dt.date(2026, 3, 1)
    found = await store.statistics.read(OWNER, Calendar.DAILY, first, last)
    assert [stat.bucket[5:] for stat in found] == [(1, 28), (2, 1), (2, 15), (2, 28), (3, 1)]
    months = await store.statistics.read(OWNER, Calendar.MONTHLY, first, last)
    assert [(stat.bucket.month, sum(stat.values)) for stat in months] == [(1, 44), (2, 44), (3, 44)]
    assert await store.statistics.read(OWNER, Calendar.YEARLY, dt.date(2027, 1, 1), NEVER) == []


async def test_keys_and_flags_are_told_apart(store: Store) -> None:
    """Each key and each flag of an owner has records of its own, in order; one can be asked for alone."""
    await counted(store, {slot(key=key, flag=flag): 1 for key in ("B", "A") for flag in ("", "actor", "client")})

    async def look(key: str | None, flag: str | None) -> Sequence[tuple[str, str]]:
        found = await store.statistics.read(OWNER, Calendar.DAILY, NEW_YEAR, NEW_YEAR, key=key, flag=flag)
        return [(stat.bucket.key, stat.bucket.flag) for stat in found]

    flags = ("", "actor", "client")
    assert await look(None, None) == [(key, flag) for key in ("A", "B") for flag in flags]
    assert await look("A", None) == [("A", flag) for flag in flags]
    assert await look(None, "") == [("A", ""), ("B", "")]
    assert await look("B", "client") == [("B", "client")]
    assert await look("C", None) == []


async def test_owners_are_who_they_are(store: Store) -> None:
    """Owners that look alike, and nobody, have statistics of their own; so have keys."""
    owners = ["", OWNER, OWNER.upper(), *HOSTILE]
    await counted(store, {slot(owner=owner): number for number, owner in enumerate(owners, 1)})
    assert [await daily(store, owner) for owner in owners] == [[{0: number}] for number in range(1, len(owners) + 1)]
    await counted(store, {slot(2, key=key): number for number, key in enumerate(HOSTILE, 1)})
    for number, key in enumerate(HOSTILE, 1):
        found = await store.statistics.read(OWNER, Calendar.DAILY, dt.date(2026, 1, 2), NEVER, key=key)
        assert values(found) == [{0: number}]


async def test_large_numbers(store: Store) -> None:
    """Sums are whole numbers to the last digit, far beyond what a float holds."""
    await counted(store, {slot(): 2**60 + 1}, {slot(): 2**60 + 2})
    assert await daily(store) == [{0: 2**61 + 3}]


async def test_a_step_is_made_once(store: Store, other: Store) -> None:
    """The same step again, from whichever process, changes nothing; the next one adds."""
    await store.statistics.claim(7)
    for each in (store, other, store):
        await each.statistics.apply(7, 1, "reader", "one", {slot(): 1})
    for each in (store, other):
        await each.statistics.apply(7, 2, "reader", "two", {slot(): 1})
    for _ in range(2):
        await store.statistics.flush(7, 3)
    assert await daily(other) == [{0: 2}]
    assert await other.statistics.claim(8) == {"reader": "two"}


async def test_steps_follow_on_each_other(store: Store) -> None:
    """A step that is not the next means that the store has gone back, or somebody else goes on: nothing is counted."""
    await store.statistics.claim(7)
    await store.statistics.apply(7, 1, "reader", "one", {slot(): 1})
    for step in (0, 3, 100):
        with pytest.raises(Fenced):
            await store.statistics.apply(7, step, "reader", "far", {slot(): 1})
        with pytest.raises(Fenced):
            await store.statistics.flush(7, step)
    await store.statistics.flush(7, 2)
    assert await daily(store) == [{0: 1}]
    assert await store.statistics.claim(8) == {"reader": "one"}


async def test_a_later_observer_fences_off_an_earlier_one(store: Store, other: Store) -> None:
    """After a claim with a higher token the earlier one adds, flushes and claims nothing more; what it counted stays."""
    await store.statistics.claim(7)
    await store.statistics.apply(7, 1, "a", "1", {slot(): 1})
    assert await other.statistics.claim(9) == {"a": "1"}
    for late in (
        store.statistics.apply(7, 2, "a", "2", {slot(): 1}),
        store.statistics.apply(7, 1, "a", "2", {slot(): 1}),
        store.statistics.flush(7, 2),
        store.statistics.claim(7),
        store.statistics.claim(8),
        store.statistics.claim(9),
    ):
        with pytest.raises(Fenced):
            await late
    await other.statistics.apply(9, 1, "b", "x", {slot(): 1})
    await other.statistics.flush(9, 2)
    assert await daily(store) == [{0: 2}]
    assert await store.statistics.positions() == {"a": "1", "b": "x"}


async def test_only_the_position(store: Store) -> None:
    """A reader can come further without anything to count; positions are any text."""
    await store.statistics.claim(1)
    for step, position in enumerate(("", '{"token": "82é🦔"}', "x" * 10_000), 1):
        await store.statistics.apply(1, step, "reader", position, {})
    assert await store.statistics.flush(1, 4) == 0
    assert await store.statistics.positions() == {"reader": "x" * 10_000}
    assert await store.statistics.claim(2) == {"reader": "x" * 10_000}


async def test_stays_after_reopening(open_store: Open) -> None:
    """What was counted and not flushed is there after reopening, with its position."""
    async with open_store() as store:
        await store.statistics.claim(1)
        await store.statistics.apply(1, 1, "reader", "here", {slot(): 5})
    async with open_store() as store:
        assert await store.statistics.claim(2) == {"reader": "here"}
        await store.statistics.flush(2, 1)
        assert await daily(store) == [{0: 5}]
