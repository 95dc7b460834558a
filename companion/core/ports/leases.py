"""Who does what only one may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to be the only one. `token` fences writes: every later lease of this name, by whomever, has a higher one."""

    name: str
    holder: str
    token: int


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else holds the lease, for at most this many seconds more if it is not renewed."""

    holder: str
    seconds: float


class Leases(Protocol):
    """Who does what only one may do. Times are measured by the store's clock."""

    async def acquire(self, name: str, holder: str, seconds: float) -> Lease | Held:
        """Take the lease for `seconds` if it is free or has run out; a holder that has it already gets a new one.

        Every lease has a higher token than the one before.
        """
        ...

    async def renew(self, lease: Lease, seconds: float) -> bool:
        """Extend it to `seconds` from now, under the same token; False when it is not ours any more (it ran out, or was taken)."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give it back so that the next need not wait; no error when it is not ours any more."""
        ...
