"""The port `Checkpoints`."""

from __future__ import annotations

import asyncio

import pytest

from companion.core.errors import CompanionError
from companion.core.ports import Store
from tests.support.adapters import Open
from tests.support.entities import HOSTILE


async def test_zero_at_first(store: Store) -> None:
    """Who never saved begins at 0."""
    assert await store.checkpoints.load("reader") == 0


async def test_it_moves_forward_only(store: Store, other: Store) -> None:
    """A lower position leaves the higher one, whoever saves it."""
    for saved, expected in ((5, 5), (5, 5), (3, 5), (0, 5), (9, 9), (8, 9), (2**53, 2**53)):
        await store.checkpoints.save("reader", saved)
        await other.checkpoints.save("reader", saved)
        assert await store.checkpoints.load("reader") == expected
        assert await other.checkpoints.load("reader") == expected


async def test_readers_have_their_own(store: Store) -> None:
    """Readers whose names look alike do not move each other."""
    for number, name in enumerate(HOSTILE, 1):
        await store.checkpoints.save(name, number)
    assert [await store.checkpoints.load(name) for name in HOSTILE] == list(range(1, len(HOSTILE) + 1))


async def test_many_at_once(store: Store, other: Store) -> None:
    """Saved from everywhere in any order, the highest position stands."""
    positions = [7, 100, 3, 99, 50, 100, 1] * 5
    saving = [(store if at % 2 else other).checkpoints.save("reader", at) for at in positions]
    await asyncio.gather(*saving)
    assert await store.checkpoints.load("reader") == 100


async def test_what_cannot_be_stored(store: Store) -> None:
    """A position beyond 64 bits and a name that is no UTF-8 are refused with an error of ours."""
    for call in (store.checkpoints.save("reader", 2**200), store.checkpoints.save("\ud800", 1)):
        with pytest.raises(CompanionError):
            await call
    assert await store.checkpoints.load("reader") == 0


async def test_stays_after_reopening(open_store: Open) -> None:
    """A saved position is there after reopening, and still does not go back."""
    async with open_store() as store:
        await store.checkpoints.save("reader", 41)
    async with open_store() as store:
        assert await store.checkpoints.load("reader") == 41
        await store.checkpoints.save("reader", 40)
        assert await store.checkpoints.load("reader") == 41
