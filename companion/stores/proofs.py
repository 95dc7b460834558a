"""Proofs that are had quickly or not at all: a store that is away, or slow, must not cost those who could do without it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from companion.breaker import Breaker
from companion.core.errors import Transient
from companion.core.ports import Proofs

T = TypeVar("T")

_SECONDS: Final = 0.25
_AT_ONCE: Final = 16


class QuickProofs:
    """The port `Proofs` over another one, whose calls end within `seconds` once they have begun.

    A few are made at once: when a whole fleet comes back after a restart, the last of thousands would else take longer than that
    only because of the others. Those who wait when the store falls silent are told as soon as the breaker knows. It is one of our
    own: that this takes too long says nothing to those who may wait.
    """

    def __init__(self, proofs: Proofs, seconds: float = _SECONDS) -> None:
        self._proofs = proofs
        self._seconds = seconds
        self._breaker = Breaker("the store of proofs")
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def get(self, name: str) -> bytes | None:
        """Return what lies there, or None."""
        return await self._soon(lambda: self._proofs.get(name))

    async def put(self, name: str, proof: bytes, seconds: float) -> None:
        """Leave it there for so long."""
        await self._soon(lambda: self._proofs.put(name, proof, seconds))

    async def _soon(self, call: Callable[[], Awaitable[T]]) -> T:
        async with self._turns:
            return await self._breaker.call(lambda: self._timed(call))

    async def _timed(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self._seconds):
                return await call()
        except TimeoutError:
            raise Transient(f"no answer within {self._seconds:g} s") from None
