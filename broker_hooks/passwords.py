"""Credential kind `password`: a user name and the password of an account.

An unknown user, and a password that bcrypt cannot take, cost the same check as a wrong one; where an account's hash is cheap to
check, a wrong password costs that of an unknown user as well. Whether an account is disabled or expired is told only after its
password was right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import bcrypt

from broker_hooks.directory import Directory, refusal
from broker_hooks.granting import Granting
from broker_hooks.hashing import takes, verify
from broker_hooks.rehash import Rehasher
from broker_hooks.secrets_of import hash_of, refusal_of, singles_of
from broker_hooks.uses import LazyUses, name_of_secret
from companion.core.errors import Transient
from companion.core.model import Account, AccountSecret, Connect, Decision, Deny, Reason
from companion.core.password_hashes import Bcrypt, PasswordHash, Single, affordable, cheap
from companion.metrics import Metrics


class Overloaded(Transient):
    """More passwords are waiting to be checked than could be checked in time."""


class PasswordPool:
    """Threads that check passwords: a fixed number, a bounded queue, a deadline. What takes long releases the GIL."""

    def __init__(self, workers: int, waiting: int, deadline: float, metrics: Metrics) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="password")
        self._limit = workers + waiting
        self._deadline = deadline
        self._busy = 0
        metrics.password_checks.set_function(lambda: self._busy)

    async def matches(self, password: bytes, password_hash: PasswordHash) -> bool:
        """Tell whether the password belongs to the hash.

        Raises `Overloaded` when the queue is full or the deadline (seconds) passes, `ValueError` for a hash that bcrypt refuses.
        """
        if self._busy >= self._limit:
            raise Overloaded("too many passwords wait to be checked")
        self._busy += 1
        future = self._executor.submit(verify, password, password_hash)
        # Counted until the thread is done, also when nobody waits any more: that is what the bound is about.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done))
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise Overloaded("the password was not checked in time") from None

    def close(self) -> None:
        """Drop what waits and let the threads end."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _done(self) -> None:
        self._busy -= 1


class PasswordCredential:
    """Tries user name and password."""

    def __init__(
        self,
        directory: Directory,
        pool: PasswordPool,
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
        self._max_cost = max_cost
        self._granting = granting
        self._rehasher = rehasher
        self._uses = uses
        self._now = now
        self._nobody = Bcrypt(bcrypt.hashpw(b"nobody", bcrypt.gensalt(cost)).decode(), cost)

    async def decide(self, connect: Connect) -> Decision | None:
        """Judge; None when there is no user name or no password."""
        if not connect.username or not connect.password:
            return None
        account = await self._directory.account(connect.username)
        refused = await self._refusal(account, connect.password.encode())
        if refused is not None or account is None:
            return refused
        await self._directory.end_session(connect.username, connect.client_id)
        return self._granting.allow(Reason.PASSWORD, account)

    async def _refusal(self, account: Account | None, password: bytes) -> Deny | None:
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
        except Overloaded:
            return Deny(Reason.OVERLOADED)
        except ValueError:
            usable = right = False
        if account is None:
            return Deny(Reason.UNKNOWN_USER)
        if not usable:
            return Deny(Reason.UNUSABLE_HASH, detail="no hash of a known kind, or its cost is above password_max_cost")
        if not right or not checkable:
            return Deny(Reason.WRONG_PASSWORD)
        return refusal(account, self._now()) or await self._fitted(account, password)

    async def _fitted(self, account: Account, password: bytes) -> Deny | None:
        """Tell why the secret that fitted may not be used now, of several secrets; note that it was used."""
        singles = singles_of(account, self._max_cost)
        refused = None
        for number, (secret, hashed) in enumerate(singles):
            # Whoever has one secret costs no second check, nor does the last of several: it has to be this one.
            sure = refused is None and number == len(singles) - 1
            try:
                if not sure and not (takes(hashed, password) and await self._pool.matches(password, hashed)):
                    continue
            except Overloaded:
                return Deny(Reason.OVERLOADED)
            except ValueError:
                continue
            refused = refusal_of(secret, self._now())
            if refused is None:
                self._note(account, secret, hashed, password)
                break
        return refused

    def _note(self, account: Account, secret: AccountSecret | None, hashed: Single, password: bytes) -> None:
        if self._uses is not None:
            self._uses.note(name_of_secret(account.username, secret.id if secret else ""))
        if self._rehasher is not None and secret is None:
            self._rehasher.consider(account, hashed, password)

    async def _as_nobody(self, password: bytes) -> bool:
        """Take the time that a check takes."""
        return await self._pool.matches(password if takes(self._nobody, password) else b"", self._nobody)
