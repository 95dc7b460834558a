"""Counters in one process, and what happens while the shared ones are away."""

from __future__ import annotations

import io

from companion.core.errors import Transient
from companion.stores.counters import FallbackCounters, LocalCounters


class Shared:
    """Counters that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.counters = LocalCounters()

    async def add(self, key: str, seconds: float) -> int:
        if self.away:
            raise Transient("redis is away")
        return await self.counters.add(key, seconds)


async def test_memory_is_bounded() -> None:
    """With too many keys the oldest window is forgotten; a new window of an old key is young again."""
    now = [0.0]
    counters = LocalCounters(keys=2, clock=lambda: now[0])
    await counters.add("a", 10)
    await counters.add("b", 10)
    now[0] = 11
    assert await counters.add("a", 10) == 1
    await counters.add("c", 10)
    assert await counters.add("a", 10) == 2
    assert await counters.add("b", 10) == 1


async def test_each_process_counts_while_the_shared_ones_are_away(logged: io.StringIO) -> None:
    """Going and coming back are said once each, and counting goes on."""
    shared = Shared()
    counters = FallbackCounters(shared, LocalCounters())
    assert [await counters.add("a", 60) for _ in range(3)] == [1, 2, 3]
    shared.away = True
    assert [await counters.add("a", 60) for _ in range(3)] == [1, 2, 3]
    shared.away = False
    assert [await counters.add("a", 60) for _ in range(2)] == [4, 5]
    assert logged.getvalue().count("each process counts alone") == 1
    assert logged.getvalue().count("are back") == 1
