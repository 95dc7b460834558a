"""One hop: EMQX takes the whole policy with the answer to a login, and judges the session's publishes and subscribes itself.

Only what a list says exactly is given (`companion.core.acl`); everybody else is asked about as before. A list holds as long as the
session does: what changes afterwards is not felt, so the session is given an end, and the client comes back for a new list.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Final

from broker_hooks.directory import Directory
from broker_hooks.policy_lists import CompileAcl, Listed
from companion.core.acl import Inexact, NotExact, compile_acl
from companion.core.errors import CompanionError
from companion.core.model import Allow, Connect, Decision
from companion.core.rules import Rule
from companion.metrics import ACL_GIVEN, ACL_REFUSED, ACL_UNAVAILABLE, Metrics
from companion.settings import Settings

_SHORTEST: Final = 10
"""Seconds that a list has to hold for at least, when a time window opens or closes soon: clients do not come back for less."""

_SPREAD: Final = 0.2
"""Share of a session's time by which ends differ: clients that came at once do not all come back at once."""


def acl_compiler(settings: Settings) -> CompileAcl | None:
    """Return what makes lists within the bounds of the settings; None when none are made."""
    if not settings.hooks_acl:
        return None

    def compiled(rules: Sequence[Rule], values: Mapping[str, str]) -> bytes | NotExact:
        return compile_acl(rules, values, max_topics=settings.hooks_acl_topics, max_bytes=settings.hooks_acl_bytes)

    return compiled


class OneHop:
    """Completes the answers to logins.

    A session with a list ends after at most `seconds` (0: when its credential does), and when a time window of one of its rules
    opens or closes. A list that is not there within `patience` seconds is left out: a login does not fail for it.
    """

    def __init__(
        self,
        directory: Directory,
        metrics: Metrics,
        *,
        seconds: int,
        patience: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._counts = metrics.acl.lists
        self._seconds = seconds
        self._patience = patience
        self._now = now

    async def complete(self, connect: Connect, decision: Decision) -> Decision:
        """Return an allowed login with the list of its client, where there is one; anything else as it is."""
        if not isinstance(decision, Allow):
            return decision
        try:
            async with asyncio.timeout(self._patience):
                listed = await self._directory.acl(connect.username, connect.client_id, connect.peer_host)
        except (CompanionError, TimeoutError):
            self._counts[ACL_UNAVAILABLE].count += 1
            return decision
        now = self._now()
        outcome, acl = _given(listed, now)
        self._counts[outcome].count += 1
        return decision._replace(acl=acl, expires_at=self._end(decision, listed, now)) if acl and listed else decision

    def _end(self, decision: Allow, listed: Listed, now: float) -> int | None:
        ends = [] if decision.expires_at is None else [decision.expires_at]
        if listed.until < inf:
            ends.append(int(listed.until))
        if self._seconds:
            life = self._seconds * (1 - _SPREAD * random.random())  # noqa: S311 - spreads load, protects nothing
            # Of a session that ends at once nobody has anything, and EMQX refuses an end that has passed.
            ends.append(int(now + max(life, 1)) + 1)
        return min(ends, default=None)


def _given(listed: Listed | None, now: float) -> tuple[str, bytes]:
    """Return what became of a list, and the list, or nothing."""
    if listed is None:
        return ACL_REFUSED, b""
    if isinstance(listed.acl, NotExact):
        return listed.acl.why.value, b""
    if listed.until - now < _SHORTEST:
        return Inexact.CONDITION.value, b""
    return ACL_GIVEN, listed.acl
