"""The port `Counters`."""

from __future__ import annotations

import asyncio

from companion.core.ports import Store
from tests.support.entities import HOSTILE

PORTS = {"counters"}


async def test_counting(store: Store) -> None:
    """Every call counts one, each key for itself."""
    for name in HOSTILE:
        assert [await store.counters.add(name, 60) for _ in range(3)] == [1, 2, 3]


async def test_many_at_once(store: Store) -> None:
    """No count is lost or told twice."""
    counts = await asyncio.gather(*(store.counters.add("key", 60) for _ in range(50)))
    assert sorted(counts) == list(range(1, 51))


async def test_a_window_ends(store: Store) -> None:
    """The first of a count begins its window; when it ends counting begins anew, and later ones do not make it longer."""
    assert await store.counters.add("key", 0.4) == 1
    await asyncio.sleep(0.25)
    assert await store.counters.add("key", 0.4) in {1, 2}
    await asyncio.sleep(0.25)
    assert await store.counters.add("key", 0.4) == 1
