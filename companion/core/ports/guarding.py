"""What keeps the door: credentials that were verified, and who is locked out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from companion.core.lockouts import Growth, Lockout, Target


class Proofs(Protocol):
    """What one process has verified, for the others. Opaque to the store; losing it costs time and nothing else.

    `Transient` comes soon, also from a store that says nothing.
    """

    async def get(self, name: str) -> bytes | None:
        """Return what lies there; None where nothing does, or not any more."""
        ...

    async def put(self, name: str, proof: bytes, seconds: float) -> None:
        """Leave it there for so long, in place of what lay there."""
        ...


class Lockouts(Protocol):
    """Who is locked out: shared by all processes, and outliving them."""

    async def lock(self, target: Target, growth: Growth) -> Lockout:
        """Lock it out, for longer than the last time, and return the lock-out; the one there is when it is locked out already."""
        ...

    async def after(self, number: int, limit: int) -> Sequence[Lockout]:
        """Return up to `limit` lock-outs that were made, or lifted, behind this number, in order; also some that have ended.

        From the first one on, where the store has lost what it knew and begun to count anew.
        """
        ...

    async def active(self, limit: int) -> Sequence[Lockout]:
        """Return up to `limit` lock-outs that hold now, newest first."""
        ...

    async def lift(self, key: str) -> bool:
        """End it and forget how often it was; False where there is none that holds. Followers hear of it by `after`."""
        ...
