"""Bans at the broker: an address that was locked out again and again is turned away by EMQX itself, before it asks us.

Only a courtesy: a ban that cannot be made is counted and forgotten, because whoever it is about stays locked out here. Each has an
end, so that nothing has to be lifted.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from broker_hooks.addresses import is_address
from companion.core.errors import CompanionError
from companion.core.lockouts import Lockout
from companion.emqx_api import EmqxApi
from companion.metrics import Metrics
from companion.settings import Settings

log = structlog.get_logger("broker_hooks.banning")

_WAITING: Final = 1000


class Banner:
    """Bans the addresses that the `after`th lock-out of something came from, one at a time; what waits is bounded."""

    def __init__(self, after: int, metrics: Metrics) -> None:
        self._after = after
        self._metrics = metrics
        self._bans = metrics.logins.bans
        self._waiting: asyncio.Queue[tuple[str, int]] = asyncio.Queue(_WAITING)

    def told(self, lockout: Lockout, peer_host: str) -> None:
        """Take note of a lock-out; ban the address it came from if it is one too many."""
        if lockout.times < self._after or not is_address(peer_host):
            return
        try:
            self._waiting.put_nowait((peer_host, lockout.until))
        except asyncio.QueueFull:
            self._bans["dropped"].count += 1

    async def run(self, settings: Settings) -> None:
        """Ban what waits, until cancelled."""
        async with EmqxApi.open(settings, self._metrics) as api:
            while True:
                peer_host, until = await self._waiting.get()
                try:
                    await api.ban("peerhost", peer_host, until // 1000, "too many refused logins")
                except CompanionError as problem:
                    self._bans["failed"].count += 1
                    log.warning("an address was not banned at the broker", peer_host=peer_host, problem=str(problem))
                else:
                    self._bans["done"].count += 1
                    log.info("banned at the broker", peer_host=peer_host, until=until // 1000)
