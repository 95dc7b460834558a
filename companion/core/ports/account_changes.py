"""Word of accounts that whoever is connected must not use any more as before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from companion.core.revocations import Cause


@dataclass(frozen=True, slots=True)
class AccountChange:
    """An account that was disabled or removed, got another password or lost a secret, at this time (Unix milliseconds).

    `identity` tells this change from every other. Without a cause it is only the news that the reader has come this far.
    """

    position: str
    username: str = ""
    cause: Cause | None = None
    identity: str = ""
    at: int = 0


class AccountChanges(Protocol):
    """Accounts that changed, by whomever, kept until they were looked after. It belongs to one reader, who holds its lease.

    The order of calls is `open`, then `read` and `save` again and again, then `close`; after `close` it can be opened again.
    """

    async def open(self, fence: int) -> None:
        """Claim the place and go there; the first time, begin with what changes from now on. Raises `Fenced`."""
        ...

    async def read(self, limit: int) -> Sequence[AccountChange]:
        """Return up to about `limit` behind those already read; with nothing new, wait (at most a second) and return none."""
        ...

    async def save(self, position: str) -> None:
        """Note durably that all up to this position is looked after. Raises `Fenced` when a later reader has claimed the place."""
        ...

    async def close(self) -> None:
        """Let go of what reading holds; no error when it is closed."""
        ...
