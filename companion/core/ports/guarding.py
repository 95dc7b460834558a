"""What keeps the door: credentials that were verified."""

from __future__ import annotations

from typing import Protocol


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
