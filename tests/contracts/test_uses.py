"""The port `Uses`."""

from __future__ import annotations

import asyncio

import pytest

from companion.core.errors import CompanionError
from companion.core.ports import Store
from tests.support.adapters import Open
from tests.support.entities import HOSTILE

PORTS = {"uses"}


async def test_nothing_at_first(store: Store) -> None:
    """What was never used is left out, and nothing is no error."""
    await store.uses.note({})
    await store.uses.forget([])
    await store.uses.forget(["a"])
    assert await store.uses.latest([]) == {}
    assert await store.uses.latest(["a"]) == {}


async def test_the_latest_stays(store: Store, other: Store) -> None:
    """Whoever comes late with an earlier time changes nothing, also of many at once."""
    await store.uses.note({"a": 10, "b": 0})
    await other.uses.note({"a": 5, "c": 253_402_300_799})
    assert await store.uses.latest(["a", "b", "c", "d"]) == {"a": 10, "b": 0, "c": 253_402_300_799}
    await asyncio.gather(*((store if n % 2 else other).uses.note({"a": n}) for n in range(20)))
    assert await store.uses.latest(["a"]) == {"a": 19}


async def test_names_are_what_they_are(store: Store) -> None:
    """Names that look alike have times of their own."""
    await store.uses.note({name: number for number, name in enumerate(HOSTILE)})
    assert await store.uses.latest(HOSTILE) == {name: number for number, name in enumerate(HOSTILE)}


async def test_forgetting(store: Store) -> None:
    """Only those that are named are forgotten."""
    await store.uses.note({"a": 1, "b": 2, "c": 3})
    await store.uses.forget(["a", "c", "x"])
    assert await store.uses.latest(["a", "b", "c"]) == {"b": 2}


async def test_what_cannot_be_stored(store: Store) -> None:
    """Text that is no UTF-8 is refused with an error of ours."""
    for call in (store.uses.note({"\ud800": 1}), store.uses.latest(["\ud800"]), store.uses.forget(["\ud800"])):
        with pytest.raises(CompanionError):
            await call


async def test_after_reopening(open_store: Open) -> None:
    """A store that is opened later knows."""
    async with open_store() as store:
        await store.uses.note({"a": 1})
    async with open_store() as store:
        assert await store.uses.latest(["a"]) == {"a": 1}
