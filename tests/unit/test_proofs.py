"""Proofs in time: a fleet's worth of looks at once, and a store that says nothing."""

from __future__ import annotations

import asyncio
import time

from companion.core.errors import Transient
from companion.stores.proofs import QuickProofs


class Slow:
    """The port `Proofs`; each call takes so long, or for ever."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self.asked = 0

    async def get(self, name: str) -> bytes | None:
        self.asked += 1
        if self._seconds is None:
            await asyncio.Event().wait()
        await asyncio.sleep(self._seconds or 0)
        return name.encode()

    async def put(self, name: str, proof: bytes, seconds: float) -> None:
        del proof, seconds
        await self.get(name)


async def test_a_whole_fleet_at_once() -> None:
    """Looks that only wait for others are not given up: none of many is lost, though all together take longer than one may."""
    proofs = QuickProofs(Slow(0.01), seconds=2.0)
    found = await asyncio.gather(*(proofs.get(str(number)) for number in range(5000)))
    assert found == [str(number).encode() for number in range(5000)]


async def test_a_store_that_says_nothing() -> None:
    """A few find that out; all others are told at once, and nobody waits for long."""
    silent = Slow(None)
    proofs = QuickProofs(silent, seconds=0.05)
    started = time.monotonic()
    outcomes = await asyncio.gather(*(proofs.get(str(number)) for number in range(2000)), return_exceptions=True)
    assert all(isinstance(one, Transient) for one in outcomes)
    assert silent.asked < 50
    assert time.monotonic() - started < 20
