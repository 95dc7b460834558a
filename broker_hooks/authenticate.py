"""Authentication: credential kinds, tried in the configured order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from companion.core.model import Allow, Connect, Decision, Deny, Reason

_NO_CREDENTIALS: Final = Deny(Reason.NO_CREDENTIALS)


class CredentialKind(Protocol):
    """One kind of credential."""

    async def decide(self, connect: Connect) -> Decision | None:
        """Judge the request; None when it holds no credential of this kind, so that the next one may try."""
        ...

    def concerns(self, connect: Connect) -> bool:
        """Tell whether the request seems to hold a credential of this kind; where it does not, `decide` returns None."""
        ...

    def recall(self, connect: Connect) -> Allow | None:
        """Return the yes that `decide` would return, as far as memory alone knows; None where it has to be asked.

        Of a request that is not let in, or not from memory, nothing is counted or noted.
        """
        ...


async def authenticate(kinds: Sequence[CredentialKind], connect: Connect) -> Decision:
    """Return the verdict of the first kind that recognises its credential; a refusal by one kind is final."""
    for kind in kinds:
        decision = await kind.decide(connect)
        if decision is not None:
            return decision
    return _NO_CREDENTIALS


def recall(kinds: Sequence[CredentialKind], connect: Connect) -> Allow | None:
    """Return the yes of the first kind that is concerned, as far as memory alone knows."""
    for kind in kinds:
        if kind.concerns(connect):
            return kind.recall(connect)
    return None
