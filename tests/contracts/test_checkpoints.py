"""The port `Checkpoints`."""

from __future__ import annotations

import asyncio

import pytest

from companion.core.errors import CompanionError, Fenced
from companion.core.ports import Store
from tests.support.adapters import Open
from tests.support.entities import HOSTILE

PORTS = {"checkpoints"}


async def test_nothing_at_first(store: Store) -> None:
    """Who never saved begins where there is no position."""
    assert await store.checkpoints.load("reader") is None
    assert await store.checkpoints.claim("reader", 5) is None
    assert await store.checkpoints.load("reader") is None


async def test_the_last_position_counts(store: Store, other: Store) -> None:
    """A position is text that only its source understands: the one saved last stands, whatever it looks like."""
    for position in ("9", "10", '{"token": "82é🦔"}', "", "1", "x" * 10_000):
        await store.checkpoints.save("reader", position, 1)
        assert await store.checkpoints.load("reader") == position
        assert await other.checkpoints.load("reader") == position
    assert await other.checkpoints.claim("reader", 2) == "x" * 10_000


async def test_readers_have_their_own(store: Store) -> None:
    """Readers whose names look alike do not move each other, nor do their fences."""
    for number, name in enumerate(HOSTILE, 1):
        await store.checkpoints.save(name, str(number), len(HOSTILE) - number)
    assert [await store.checkpoints.load(name) for name in HOSTILE] == [
        str(number) for number in range(1, len(HOSTILE) + 1)
    ]


async def test_a_later_claim_fences_off_an_earlier_reader(store: Store, other: Store) -> None:
    """After a claim with a higher token the earlier reader saves and claims nothing more; the later one goes on."""
    assert await store.checkpoints.claim("reader", 3) is None
    await store.checkpoints.save("reader", "first", 3)
    assert await other.checkpoints.claim("reader", 4) == "first"
    with pytest.raises(Fenced):
        await store.checkpoints.save("reader", "late", 3)
    with pytest.raises(Fenced):
        await store.checkpoints.claim("reader", 3)
    assert await store.checkpoints.load("reader") == "first"
    await other.checkpoints.save("reader", "second", 4)
    assert await store.checkpoints.load("reader") == "second"


async def test_saving_fences_as_well(store: Store) -> None:
    """A save with a higher token that was never claimed keeps lower ones out too; the same token may come again."""
    await store.checkpoints.save("reader", "new", 2**52)
    await store.checkpoints.save("reader", "newer", 2**52)
    with pytest.raises(Fenced):
        await store.checkpoints.save("reader", "old", 2**52 - 1)
    assert await store.checkpoints.claim("reader", 2**52) == "newer"


async def test_many_at_once(store: Store, other: Store) -> None:
    """Of readers with different tokens that save at once, the newest one's position stands."""
    saving = [
        (store if number % 2 else other).checkpoints.save("reader", f"of {number}", number) for number in range(40)
    ]
    outcomes = await asyncio.gather(*saving, return_exceptions=True)
    assert await store.checkpoints.load("reader") == "of 39"
    assert all(outcome is None or isinstance(outcome, Fenced) for outcome in outcomes)


async def test_what_cannot_be_stored(store: Store) -> None:
    """Text that is no UTF-8 is refused with an error of ours."""
    for call in (store.checkpoints.save("reader", "\ud800", 1), store.checkpoints.save("\ud800", "1", 1)):
        with pytest.raises(CompanionError):
            await call
    assert await store.checkpoints.load("reader") is None


async def test_stays_after_reopening(open_store: Open) -> None:
    """A saved position and its fence are there after reopening."""
    async with open_store() as store:
        await store.checkpoints.save("reader", "here", 41)
    async with open_store() as store:
        assert await store.checkpoints.load("reader") == "here"
        with pytest.raises(Fenced):
            await store.checkpoints.save("reader", "there", 40)
        assert await store.checkpoints.claim("reader", 42) == "here"
