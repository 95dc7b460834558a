"""The hook `/mqtt/scram`: what EMQX needs to check a SCRAM proof (MQTT 5, EMQX 5.8 and later).

EMQX takes any answer without keys for "ask the next one", and whoever watches then knows that there is nobody of this name. So a
name that is unknown, disabled or without keys gets keys as well, the same each time, which no password has: the proof fails like
that of a wrong password. EMQX does not tell us how a proof ended, so nothing here counts as a failure.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from broker_hooks.directory import Directory, refusal
from broker_hooks.granting import Granting
from companion.core.model import Account, Allow, Connect, Decision, Deny, Reason
from companion.core.scram import Algorithm, ScramKeys, keys_in, keys_of_nobody

_NO_NAME: Final = Deny(Reason.NO_CREDENTIALS)


class ScramHook:
    """Answers with keys of the one algorithm and number of iterations that EMQX is configured with.

    `judge` refuses who is revoked. `key` is one of the hooks', which all replicas have: a name gets the same keys of nobody from
    each of them.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        key: str,
        algorithm: Algorithm,
        iterations: int,
        granting: Granting,
        judge: Callable[[Connect, Decision], Awaitable[Decision]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._key = key
        self._algorithm: Algorithm = algorithm
        self._iterations = iterations
        self._granting = granting
        self._revoked = judge
        self._now = now

    async def decide(self, connect: Connect) -> tuple[Decision, ScramKeys | None]:
        """Return the decision, and the keys to answer with; none without a user name."""
        if not connect.username:
            return _NO_NAME, None
        account = await self._directory.account(connect.username)
        found = self._judge(account)
        decision: Decision = found if isinstance(found, Deny) else self._granting.allow(Reason.SCRAM, account)
        decision = await self._revoked(connect, decision)
        if isinstance(found, ScramKeys) and isinstance(decision, Allow):
            return decision, found
        return decision, keys_of_nobody(connect.username, self._key, self._algorithm, self._iterations)

    def _judge(self, account: Account | None) -> ScramKeys | Deny:
        if account is None:
            return Deny(Reason.UNKNOWN_USER)
        keys = keys_in(account.scram)
        if keys is None or (keys.algorithm, keys.iterations) != (self._algorithm, self._iterations):
            return Deny(Reason.UNUSABLE_HASH, detail="no SCRAM keys of scram_algorithm and scram_iterations")
        return refusal(account, self._now()) or keys
