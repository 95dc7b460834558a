"""Accounts that were disabled or removed, got another password or lost a secret: whoever is connected with one of them has to go.

The change itself is refused by the hooks; here it becomes a kick, a record like those of revocations, once for each change however
often it is read.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

import structlog

from companion.core.errors import CompanionError, Fenced
from companion.core.ports import AccountChanges, Revocations
from companion.core.revocations import kick_of
from companion.leadership import Term

log = structlog.get_logger("maintenance.changed_accounts")

_READ: Final = 100
_PAUSE: Final = (0.2, 5.0)
BY: Final = "account"


class ChangedAccounts:
    """Asks for kicks while its lease lasts; `asked` is called after each."""

    def __init__(self, changes: AccountChanges, revocations: Revocations, asked: Callable[[], None]) -> None:
        self._changes = changes
        self._revocations = revocations
        self._asked = asked
        self._stopping = False

    def stop(self) -> None:
        """Read nothing more."""
        self._stopping = True

    async def run(self, term: Term) -> None:
        """Follow what changes until `stop`. Raises `Fenced` when another has come to."""
        pause, longest = _PAUSE
        opened = False
        try:
            while not self._stopping:
                try:
                    if not opened:
                        await self._changes.open(term.lease.token)
                        opened = True
                    await self._some()
                    pause = _PAUSE[0]
                except Fenced:
                    raise
                except CompanionError as problem:
                    log.warning("changed accounts are not looked after for now", problem=str(problem))
                    # What was read and not noted is read again.
                    opened = False
                    await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries
                    pause = min(pause * 2, longest)
        finally:
            await self._changes.close()

    async def _some(self) -> None:
        found = await self._changes.read(_READ)
        for one in found:
            if one.cause is None:
                continue
            if await self._revocations.add(kick_of(one.username, one.cause, one.identity, one.at, BY)):
                log.info("an account changed: its clients are kicked", cause=one.cause.value)
                self._asked()
        if found:
            await self._changes.save(found[-1].position)
