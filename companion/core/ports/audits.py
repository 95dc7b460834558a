"""Decisions worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from companion.core.model import Audit


class Audits(Protocol):
    """Decisions worth keeping."""

    async def append(self, records: Sequence[Audit]) -> None:
        """Store them, in order."""
        ...

    async def latest(self, limit: int) -> Sequence[Audit]:
        """Return the newest records, newest first."""
        ...

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` records older than `before` (Unix milliseconds); return how many. `dry` only counts them."""
        ...

    async def trim(self, keep: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` of the oldest records beyond the newest `keep`; return how many. `dry` only counts them."""
        ...
