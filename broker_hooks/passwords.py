"""Credential kind `password`: a user name and the password of an account.

An unknown user, and a password that bcrypt cannot take, cost the same check as a wrong one; where an account's hash is cheap to
check, a wrong password costs that of an unknown user as well. Whether an account is disabled or expired is told only after its
password was right.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import bcrypt

from broker_hooks.directory import Directory, refusal
from broker_hooks.granting import Granting
from broker_hooks.hashing import takes
from broker_hooks.password_pool import Overloaded, PasswordPool
from broker_hooks.rehash import Rehasher
from broker_hooks.secrets_of import hash_of, refusal_of, singles_of
from broker_hooks.uses import LazyUses, name_of_secret
from broker_hooks.verified import Verdict, VerifiedCredentials
from companion.core.model import Account, AccountSecret, Allow, Connect, Decision, Deny, Reason
from companion.core.password_hashes import Bcrypt, Single, affordable, cheap

_SEVERAL_SECONDS: Final = 3600.0
"""For how long it is remembered that one of several secrets fits: which one it was, and so its use, is only known from a check."""


class PasswordCredential:
    """Tries user name and password."""

    def __init__(
        self,
        directory: Directory,
        pool: PasswordPool,
        verified: VerifiedCredentials,
        *,
        cost: int,
        max_cost: int,
        granting: Granting,
        rehasher: Rehasher | None = None,
        uses: LazyUses | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._pool = pool
        self._verified = verified
        self._max_cost = max_cost
        self._granting = granting
        self._rehasher = rehasher
        self._uses = uses
        self._now = now
        self._nobody = Bcrypt(bcrypt.hashpw(b"nobody", bcrypt.gensalt(cost)).decode(), cost)

    def concerns(self, connect: Connect) -> bool:
        """Tell whether there is a user name and a password."""
        return bool(connect.username and connect.password)

    def recall(self, connect: Connect) -> Allow | None:
        """Return the yes to a password that is known to be right, for an account that is remembered."""
        username, directory = connect.username, self._directory
        account = directory.recall_account(username)
        if account is None or refusal(account, self._now()) is not None:
            return None
        if not directory.recall_no_session(username, connect.client_id):
            return None
        if not self._verified.recalls(account, username, connect.password.encode()):
            return None
        directory.used_account()
        self._note(account)
        return self._granting.allow(Reason.PASSWORD, account)

    async def decide(self, connect: Connect) -> Decision | None:
        """Judge; None when there is no user name or no password."""
        if not connect.username or not connect.password:
            return None
        begun = time.monotonic()
        username, password = connect.username, connect.password.encode()
        account = await self._directory.account(username)
        if account is None or not self._verified.knows(account, username, password):
            try:
                refused = await self._verified.refusal(
                    account, username, password, lambda: self._check(account, password), begun
                )
            except Overloaded:
                return Deny(Reason.OVERLOADED)
            if refused is not None or account is None:
                return refused
        # That a password is right may be remembered; whether its account may be used now is not.
        refused = refusal(account, self._now())
        if refused is not None:
            return refused
        self._note(account)
        if not self._directory.has_no_session(username, connect.client_id):
            await self._directory.end_session(username, connect.client_id)
        return self._granting.allow(Reason.PASSWORD, account)

    async def _check(self, account: Account | None, password: bytes) -> Verdict:
        known = hash_of(account, self._max_cost) if account else None
        usable = known is not None and affordable(known, self._max_cost)
        checkable = known is not None and usable and takes(known, password)
        try:
            if known is not None and checkable:
                right = await self._pool.matches(password, known)
                if not right and cheap(known):
                    await self._as_nobody(password)
            else:
                right = await self._as_nobody(password)
        except ValueError:
            usable = right = False
        if account is None:
            return Verdict(Deny(Reason.UNKNOWN_USER))
        if not usable:
            return Verdict(
                Deny(Reason.UNUSABLE_HASH, detail="no hash of a known kind, or its cost is above password_max_cost")
            )
        if not right or not checkable:
            return Verdict(Deny(Reason.WRONG_PASSWORD))
        return await self._fitted(account, password)

    async def _fitted(self, account: Account, password: bytes) -> Verdict:
        """Tell whether the secret that fitted may be used now, and until when, of several secrets; note that it was used."""
        singles = singles_of(account, self._max_cost)
        refused = None
        for number, (secret, hashed) in enumerate(singles):
            # Whoever has one secret costs no second check, nor does the last of several: it has to be this one.
            sure = refused is None and number == len(singles) - 1
            try:
                if not sure and not (takes(hashed, password) and await self._pool.matches(password, hashed)):
                    continue
            except ValueError:
                continue
            refused = refusal_of(secret, self._now())
            if refused is None:
                return self._good(account, secret, hashed, password)
        return Verdict(refused)

    def _good(self, account: Account, secret: AccountSecret | None, hashed: Single, password: bytes) -> Verdict:
        logs_in = refusal(account, self._now()) is None
        if logs_in and self._rehasher is not None and secret is None:
            self._rehasher.consider(account, hashed, password)
        if not account.secrets:
            return Verdict()
        if logs_in and self._uses is not None:
            self._uses.note(name_of_secret(account.username, secret.id if secret else ""))
        ends = math.inf if secret is None or secret.not_after is None else float(secret.not_after)
        return Verdict(None, min(ends, self._now() + _SEVERAL_SECONDS))

    def _note(self, account: Account) -> None:
        """Note that its only secret was used; of several, `_good` knows which."""
        if self._uses is not None and not account.secrets:
            self._uses.note(name_of_secret(account.username))

    async def _as_nobody(self, password: bytes) -> bool:
        """Take the time that a check takes."""
        return await self._pool.matches(password if takes(self._nobody, password) else b"", self._nobody)
