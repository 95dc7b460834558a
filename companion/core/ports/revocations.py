"""Who is revoked, and what is left to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from companion.core.revocations import Revocation, Standing


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many revocations have something left to do, and since when the oldest (Unix milliseconds; None without any)."""

    count: int
    oldest: int | None = None


class Revocations(Protocol):
    """Records of revocations. Who works on one does so under a lease, whose token is the `fence`."""

    async def add(self, revocation: Revocation) -> bool:
        """Store a new one durably; False, and nothing is changed, when there is one of this id."""
        ...

    async def get(self, revocation_id: str) -> Revocation | None:
        """Return it; None when there is none."""
        ...

    async def list(self, *, waiting: bool | None = None, limit: int = 100) -> Sequence[Revocation]:
        """Return up to `limit`, newest first; with `waiting` only those with, or without, something left to do."""
        ...

    async def standing(self, now: int, *, after: str = "", limit: int = 1000) -> Sequence[Standing]:
        """Return up to `limit` because of which the hooks refuse (Unix seconds), in the order of their ids, behind `after`."""
        ...

    async def of(self, keys: Sequence[str], now: int) -> Sequence[Standing]:
        """Return those because of which somebody with one of these keys is refused."""
        ...

    async def due(self, now: int, limit: int) -> Sequence[Revocation]:
        """Return up to `limit` that are due (Unix milliseconds), those due first first."""
        ...

    async def claim(self, revocation_id: str, fence: int) -> Revocation | None:
        """Return it as it stands, and refuse lower fences from now on; None when nothing is left. Raises `Fenced`."""
        ...

    async def note(self, revocation: Revocation) -> Revocation:
        """Store `steps`, `waiting`, `due_at`, `attempts` and `error` under its `fence`, and return it as it then stands.

        Of one that was lifted meanwhile only the steps are stored: what is left to do is another thing. Raises `Fenced`, and stores
        nothing, when somebody with another fence has claimed it.
        """
        ...

    async def lift(self, revocation_id: str, now: int) -> Revocation | None:
        """End it (Unix milliseconds) and return it, also one that was lifted before; None when there is none that can be."""
        ...

    async def waiting(self) -> Waiting:
        """Return what is left to do."""
        ...

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` older than `before` (Unix milliseconds) that neither stand nor wait; return how many."""
        ...
