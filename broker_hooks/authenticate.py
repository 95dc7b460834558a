"""Authentication: credential kinds, tried in the configured order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from companion.core.model import Connect, Decision, Deny, Reason

_NO_CREDENTIALS: Final = Deny(Reason.NO_CREDENTIALS)


class CredentialKind(Protocol):
    """One kind of credential."""

    async def decide(self, connect: Connect) -> Decision | None:
        """Judge the request; None when it holds no credential of this kind, so that the next one may try."""
        ...


async def authenticate(kinds: Sequence[CredentialKind], connect: Connect) -> Decision:
    """Return the verdict of the first kind that recognises its credential; a refusal by one kind is final."""
    for kind in kinds:
        decision = await kind.decide(connect)
        if decision is not None:
            return decision
    return _NO_CREDENTIALS
