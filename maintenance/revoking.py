"""Revocations in a process that does maintenance: the revoker and its lease, wired."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from companion.core.ports import Store
from companion.emqx_api import EmqxApi
from companion.leadership import Leadership, Term
from companion.metrics import Metrics
from companion.settings import Settings
from maintenance.changed_accounts import ChangedAccounts
from maintenance.revocation_steps import Steps
from maintenance.revoker import Revoker

LEASE: Final = "revoker"
_RELEASE_SECONDS: Final = 2.0


class Revoking:
    """What runs, and how it ends."""

    def __init__(self, store: Store, api: EmqxApi | None, settings: Settings, metrics: Metrics, holder: str) -> None:
        self.revoker = Revoker(store.revocations, Steps(store, api), metrics, settle=settings.revocation_settle)
        self._changed: ChangedAccounts | None = None
        if api is not None and settings.revocation_kick_changed:
            self._changed = ChangedAccounts(store.account_changes, store.revocations, self.revoker.wake)
        self._leadership = Leadership(store.leases, LEASE, holder, settings.revocation_lease)
        metrics.leases.held.labels(LEASE).set_function(lambda: self._leadership.leading)

    async def run(self) -> None:
        """Do what is due whenever the lease is ours."""
        await self._leadership.run(self._work)

    async def _work(self, term: Term) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.revoker.run(term))
            if self._changed is not None:
                group.create_task(self._changed.run(term))

    async def finish(self) -> None:
        """Come to the end of the steps under way and give the lease back, so that the next need not wait for its end."""
        self._leadership.stop()
        self.revoker.stop()
        if self._changed is not None:
            self._changed.stop()
        await self._leadership.ended(_RELEASE_SECONDS)


@contextlib.asynccontextmanager
async def opened_api(settings: Settings, metrics: Metrics) -> AsyncIterator[EmqxApi | None]:
    """Make a client of EMQX's REST API, if the settings name one."""
    if not settings.emqx_url:
        yield None
        return
    async with EmqxApi.open(settings, metrics) as api:
        yield api
