"""Clients that connect again and again: a limit per client, and per user name, in a minute. Each process counts alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from companion.core.model import Connect, Deny, Reason
from companion.stores.counters import LocalCounters

_SECONDS: Final = 60.0


class Flapping:
    """Refuses the connects of a client id, or of a user name, beyond so many in a minute; 0: no limit.

    A minute begins with the first connect. Every connect counts, let in or not.
    """

    def __init__(self, connects: int, user_connects: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._connects = connects
        self._user_connects = user_connects
        self._clients = LocalCounters(clock=clock)
        self._users = LocalCounters(clock=clock)
        self.limits = bool(connects or user_connects)

    def refusal(self, connect: Connect) -> Deny | None:
        """Count this connect, and tell why it is refused; None when it is not."""
        username, client_id = connect.username, connect.client_id
        if self._connects and self._clients.count(f"{len(username)}:{username}{client_id}", _SECONDS) > self._connects:
            return Deny(Reason.FLAPPING, detail=f"more than {self._connects} connects of this client in a minute")
        if self._user_connects and username and self._users.count(username, _SECONDS) > self._user_connects:
            return Deny(Reason.FLAPPING, detail=f"more than {self._user_connects} connects of this user in a minute")
        return None
