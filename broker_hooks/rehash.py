"""Passwords that people brought with them become bcrypt, one by one, as their owners log in.

After the answer, in a thread of its own, and only if the hash is still the one that was checked: a login waits for nothing here and
never fails because of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NoReturn

import structlog

from broker_hooks.hashing import hash_password
from companion.core.errors import CompanionError
from companion.core.model import Account
from companion.core.password_hashes import Single, outdated
from companion.core.ports import Accounts

log = structlog.get_logger("broker_hooks.rehash")

_WAITING: Final = 256
_REMEMBERED: Final = 10_000


class Rehasher:
    """Replaces hashes that are `outdated` for this bcrypt cost. With too many waiting, one is left for its next login."""

    def __init__(self, accounts: Accounts, cost: int, told: Callable[[str], None] = lambda _: None) -> None:
        self._accounts = accounts
        self._cost = cost
        self._told = told
        self._queue: asyncio.Queue[tuple[Account, bytes]] = asyncio.Queue(_WAITING)
        self._seen: dict[str, str] = {}
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="rehash")

    def consider(self, account: Account, checked: Single, password: bytes) -> None:
        """Take the account if its hash, which this password has just fitted, is to be replaced; those of others are left alone."""
        if account.foreign or not outdated(checked, self._cost) or self._queue.full():
            return
        # Until the cache hears of the new hash, the old one comes with every login.
        if self._seen.get(account.username) == account.password_hash:
            return
        while len(self._seen) >= _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[account.username] = account.password_hash
        self._queue.put_nowait((account, password))

    async def run(self) -> NoReturn:
        """Hash and replace what waits, one after the other."""
        loop = asyncio.get_running_loop()
        while True:
            account, password = await self._queue.get()
            try:
                hashed = await loop.run_in_executor(self._executor, hash_password, password.decode(), self._cost)
                replaced = await self._accounts.replace_hash(account.username, account.password_hash, hashed)
            except (CompanionError, ValueError) as problem:
                # What bcrypt cannot hold stays as it is; the store may be back at the next login.
                self._seen.pop(account.username, None)
                self._told("failed")
                log.warning("a password hash was not replaced", problem=type(problem).__name__)
            else:
                self._told("replaced" if replaced else "changed")

    def close(self) -> None:
        """Let the thread end; what waits is left for the next login."""
        self._executor.shutdown(wait=True, cancel_futures=True)
