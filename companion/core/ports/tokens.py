"""Long-lived tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from companion.core.long_tokens import LongToken


class LongTokens(Protocol):
    """What is kept of long-lived tokens: never the tokens themselves."""

    async def add(self, token: LongToken) -> None:
        """Store it. Raises `Invalid` for an id that exists already."""
        ...

    async def get(self, token_id: str) -> LongToken | None:
        """Return the token, also an expired one; None when there is none."""
        ...

    async def remove(self, token_id: str) -> bool:
        """Remove it; False when there is no such token."""
        ...

    async def list(self, username: str = "") -> Sequence[LongToken]:
        """Return all of them, or those of this user name, in the order of their ids."""
        ...
