"""Credential kind `apt`: a long-lived token of ours as the password, good within scopes, for a time, from some addresses.

The user name is the one that the token was made for. What has another form than our tokens is left to the next kind: also the
platform's own tokens of that prefix, which are passwords of accounts (`auth.apts`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from broker_hooks.directory import Directory, refusal
from broker_hooks.granting import Granting
from broker_hooks.uses import LazyUses
from companion.core.long_tokens import WHOLE, id_in, is_of
from companion.core.model import Connect, Decision, Deny, Reason, Session
from companion.core.ports import LongTokens
from companion.core.revocations import digest_name

_NO_END: Final = 253_402_300_799
"""The last second of the year 9999, for the session of a token that has no end."""


def name_of_long_token(token_id: str) -> str:
    """Return by which name the last use of a token is noted."""
    return f"apt:{token_id}"


class LongTokenCredential:
    """Tries the password as a long-lived token. `keys` are the deployment's; tokens are made under the first of them."""

    def __init__(
        self,
        directory: Directory,
        tokens: LongTokens,
        *,
        keys: Sequence[str],
        granting: Granting,
        uses: LazyUses,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._tokens = tokens
        self._keys = tuple(keys)
        self._granting = granting
        self._uses = uses
        self._now = now

    def concerns(self, connect: Connect) -> bool:
        """Tell whether the password has the form of a token of ours."""
        return id_in(connect.password) is not None

    def recall(self, connect: Connect) -> None:
        """Return None: the store is asked each time whether the token is still there."""
        del connect

    async def decide(self, connect: Connect) -> Decision | None:
        """Judge; None when the password has not the form of a token of ours."""
        token_id = id_in(connect.password)
        if token_id is None:
            return None
        token = await self._tokens.get(token_id)
        if token is None or not is_of(connect.password, token.digest, self._keys):
            return Deny(Reason.TOKEN_INVALID, detail="no such long-lived token")
        now = self._now()
        if token.expires_at is not None and token.expires_at <= now:
            return Deny(Reason.TOKEN_EXPIRED)
        if connect.username != token.username:
            return Deny(Reason.WRONG_PRINCIPAL, detail="the user name is not that of the token")
        if not token.admits(connect.peer_host):
            return Deny(Reason.ADDRESS_NOT_ALLOWED, detail=f"token {token.id}")
        account = await self._directory.principal_account(token.username)
        refused = refusal(account, now) if account else None
        if refused:
            return refused
        await self._directory.start_session(
            Session(
                connect.username,
                connect.client_id,
                account.principal if account else token.username,
                "",
                _NO_END if token.expires_at is None else token.expires_at,
                scope=" ".join(token.scopes),
                digest=digest_name(connect.password),
                token=token.id,
            )
        )
        self._uses.note(name_of_long_token(token.id))
        limited = WHOLE not in token.scopes
        return self._granting.allow(Reason.LONG_TOKEN, account, ends=token.expires_at, limited=limited)
