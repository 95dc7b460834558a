"""The port `Lockouts`."""

from __future__ import annotations

import asyncio
import time

from companion.core.lockouts import Growth, Lockout, Target
from companion.core.ports import Store
from tests.support.entities import HOSTILE
from tests.support.eventually import eventually

PORTS = {"lockouts"}

LONG = Growth(first=60.0, longest=200.0, memory=3600.0)
SHORT = Growth(first=0.05, longest=60.0, memory=3600.0)
ALICE = Target("u-1", "alice", "10.0.0.1")
BOB = Target("u-2", "bob", "10.0.0.1")


def lasts(lockout: Lockout) -> float:
    return lockout.until / 1000 - time.time()


async def after_the_end(store: Store, before: Lockout, growth: Growth) -> Lockout:
    """Lock out again once this lock-out has ended."""

    async def another() -> Lockout | None:
        lockout = await store.lockouts.lock(before.target, growth)
        return None if lockout.until == before.until else lockout

    return await eventually(another, what="the lock-out has ended")


async def test_each_lasts_twice_as_long(store: Store) -> None:
    """The second is twice as long as the first, and none is longer than the longest."""
    first = await store.lockouts.lock(ALICE, LONG)
    assert (first.target, first.times) == (ALICE, 1)
    assert 40 < lasts(first) <= 61
    second = await after_the_end(store, await store.lockouts.lock(BOB, SHORT), LONG)
    assert second.times == 2
    assert 100 < lasts(second) <= 121
    carol = await store.lockouts.lock(Target("u-3", "carol", "10.0.0.1"), SHORT)
    assert lasts(await after_the_end(store, carol, Growth(60.0, 61.0, 3600.0))) <= 62


async def test_who_is_locked_out_already(store: Store, other: Store) -> None:
    """Many that lock out at once make one lock-out of it, which all of them get."""
    made = await asyncio.gather(*(one.lockouts.lock(ALICE, LONG) for one in (store, other) * 10))
    assert len({(one.until, one.times) for one in made}) == 1
    assert made[0].times == 1


async def test_it_is_forgotten(store: Store) -> None:
    """So long after its end the next is a first one again."""
    forgetful = Growth(first=0.05, longest=60.0, memory=0.05)
    await store.lockouts.lock(ALICE, forgetful)
    await asyncio.sleep(0.3)
    assert (await store.lockouts.lock(ALICE, LONG)).times == 1


async def test_others_hear_of_it(store: Store, other: Store) -> None:
    """What one process locked out or lifted the other is told, in order and once."""
    made = await store.lockouts.lock(ALICE, LONG)
    await store.lockouts.lock(BOB, LONG)
    told = await other.lockouts.after(0, 10)
    assert [one.target for one in told] == [ALICE, BOB]
    assert (told[0].until, told[0].times) == (made.until, made.times)
    assert await other.lockouts.after(told[-1].number, 10) == []
    assert await store.lockouts.lift(ALICE.key)
    (lifted,) = await other.lockouts.after(told[-1].number, 10)
    assert (lifted.target.key, lifted.holds(time.time())) == (ALICE.key, False)
    assert await other.lockouts.after(lifted.number, 10) == []
    assert (await store.lockouts.lock(ALICE, LONG)).times == 1
    (again,) = await other.lockouts.after(lifted.number, 10)
    assert again.holds(time.time())


async def test_telling_in_parts(store: Store) -> None:
    """No more is told at once than was asked for; the rest follows."""
    for number in range(5):
        await store.lockouts.lock(Target(f"u-{number}", "", "10.0.0.1"), LONG)
    number, keys = 0, []
    while told := await store.lockouts.after(number, 2):
        assert len(told) <= 2
        keys += [one.target.key for one in told]
        number = told[-1].number
    assert keys == [f"u-{number}" for number in range(5)]


async def test_those_that_hold(store: Store) -> None:
    """They are listed newest first; what has ended or was lifted is not, and cannot be lifted."""
    await store.lockouts.lock(Target("u-0", "gone", ""), SHORT)
    for target in (ALICE, BOB):
        await store.lockouts.lock(target, LONG)
    await asyncio.sleep(0.1)
    assert [one.target for one in await store.lockouts.active(10)] == [BOB, ALICE]
    assert [one.target for one in await store.lockouts.active(1)] == [BOB]
    assert await store.lockouts.lift(BOB.key)
    assert not await store.lockouts.lift(BOB.key)
    assert not await store.lockouts.lift("u-0")
    assert not await store.lockouts.lift("nobody")
    assert [one.target for one in await store.lockouts.active(10)] == [ALICE]


async def test_names_of_any_kind(store: Store) -> None:
    """Names from clients come back as they were, and a key tells apart what looks the same."""
    for number, name in enumerate(HOSTILE):
        await store.lockouts.lock(Target(f"u-{number}", name, name), LONG)
    told = await store.lockouts.after(0, 1000)
    assert [one.target.username for one in told] == list(HOSTILE)
