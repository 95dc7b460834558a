"""What an allowed login tells the broker beside the yes: until when, which attributes, whether a superuser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from companion.core.client_attrs import sendable
from companion.core.model import Account, Allow, Reason

ATTRIBUTES: Final = "attributes."


class Granting:
    """Makes the answers of logins.

    `attrs` names for every attribute what of the account it is: `kind`, `principal`, `username` or `attributes.{name}`. Without
    `superusers` nobody is one to the broker.
    """

    def __init__(self, attrs: Mapping[str, str], *, superusers: bool) -> None:
        self._attrs = dict(attrs)
        self._superusers = superusers

    def allow(
        self,
        reason: Reason,
        account: Account | None,
        *,
        ends: int | None = None,
        claimed: Mapping[str, str] | None = None,
        superuser: bool = False,
        limited: bool = False,
    ) -> Allow:
        """Return the yes to a login of this account, if there is one, that ends at `ends` (Unix seconds) or with the account.

        `claimed` are attributes, and `superuser` is said, by what came with the login itself. Who comes with `limited` rights is
        no superuser, whatever the account is.
        """
        plain = account is None or (account.expires_at is None and not account.superuser and not self._attrs)
        if plain and not claimed and not superuser:
            # Nothing is told, as of most.
            return Allow(reason, "", ends)
        of_account = account.expires_at if account is not None else None
        expires_at = min((end for end in (ends, of_account) if end is not None), default=None)
        attrs = dict(claimed or {})
        if self._attrs and account is not None:
            attrs = self._of(account) | attrs
        entitled = superuser or (account is not None and account.superuser)
        return Allow(
            reason, expires_at=expires_at, client_attrs=attrs, superuser=entitled and self._superusers and not limited
        )

    def _of(self, account: Account) -> dict[str, str]:
        known = {"kind": account.kind.value, "principal": account.principal, "username": account.username}
        found = {
            key: account.attributes.get(name.removeprefix(ATTRIBUTES), "")
            if name.startswith(ATTRIBUTES)
            else known.get(name, "")
            for key, name in self._attrs.items()
        }
        return sendable(found)
