"""Who is revoked: a set in memory that follows the store's notices, so that a decision costs a look into it and no more.

It errs on the side of refusing. Who is told of is taken for revoked until the store has been asked; when something may have been
missed the store is asked for every single decision until all of it is read again; and while the store is away what is known stays
known, however long that takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from companion.core.errors import CompanionError
from companion.core.model import Allow, Connect, Decision, Deny, Notice, Reason, Scope
from companion.core.ports import Revocations
from companion.core.revocations import Standing, digest_name, keys_of
from companion.metrics import Metrics

log = structlog.get_logger("broker_hooks.revoked")

REVOKED: Final = Deny(Reason.REVOKED)
_PAGE: Final = 10_000
_KEYS: Final = 500
_BACKOFF: Final = (0.2, 5.0)
_JITTER: Final = 0.2
_FOR_EVER: Final = float("inf")


class Revoked:
    """Those who are refused. Without any word it is read anew every `seconds`; `now` is Unix seconds."""

    def __init__(
        self,
        revocations: Revocations,
        metrics: Metrics,
        *,
        seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._revocations = revocations
        self._seconds = seconds
        self._now = now
        self._until: dict[str, float] = {}
        self._whole = False
        self._missed = 0
        self._doubtful: set[str] = set()
        self._news = asyncio.Event()
        metrics.revocations.standing.set_function(lambda: len(self._until))

    @property
    def some(self) -> bool:
        """Whether there is anybody to look for; most of the time there is not."""
        return bool(self._until) or not self._whole

    async def refuses(self, keys: Sequence[str]) -> bool:
        """Tell whether somebody with one of these keys is revoked. Raises `Transient` when only the store knows and is away."""
        if self.knows(keys):
            return True
        return not self._whole and bool(await self._revocations.of(keys, int(self._now())))

    def knows(self, keys: Sequence[str]) -> bool:
        """Tell whether memory alone says so."""
        now = self._now()
        return any(self._until.get(key, 0.0) > now for key in keys)

    def clears(self, connect: Connect) -> bool:
        """Tell whether memory alone says that nobody who comes like this is revoked."""
        return not self.some or (self._whole and not self.knows(_keys_of(connect)))

    def clears_keys(self, keys: Sequence[str]) -> bool:
        """Tell whether memory alone says that nobody with one of these keys is revoked."""
        return not self.some or (self._whole and not self.knows(keys))

    async def judge(self, connect: Connect, decision: Decision) -> Decision:
        """Return the decision about a login, unless it let in who is revoked: by user name, client id or what it showed."""
        if not isinstance(decision, Allow) or not self.some:
            return decision
        return REVOKED if await self.refuses(_keys_of(connect)) else decision

    def heard(self, notices: Sequence[Notice]) -> None:
        """Take word of what changed; without any notice: we listen from now on, and may have missed something before."""
        if not notices or any(one.scope is Scope.EVERYTHING for one in notices):
            self._whole = False
            self._missed += 1
        for one in notices:
            if one.scope is Scope.REVOCATION:
                self._until[one.name] = _FOR_EVER
                self._doubtful.add(one.name)
        if self._doubtful or not self._whole:
            self._news.set()

    async def run(self) -> None:
        """Read what there is and what changed, until cancelled."""
        pause, longest = _BACKOFF
        due = 0.0
        while True:
            self._news.clear()
            try:
                if not self._whole or time.monotonic() >= due:
                    await self._read_all()
                    due = time.monotonic() + self._seconds * (1 - _JITTER * random.random())  # noqa: S311 - spreads load
                await self._ask()
                pause = _BACKOFF[0]
            except CompanionError as problem:
                log.warning("revocations cannot be read: those that are known stay", problem=str(problem))
                await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing
                pause = min(pause * 2, longest)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await self._news.wait()

    async def _read_all(self) -> None:
        """Read all; what is heard meanwhile stays in doubt, and if it was that something was missed, it is read once more."""
        missed = self._missed
        found: dict[str, float] = {}
        after, now = "", int(self._now())
        while page := await self._revocations.standing(now, after=after, limit=_PAGE):
            _add(found, page)
            after = page[-1].id
        self._until = found | dict.fromkeys(self._doubtful, _FOR_EVER)
        self._whole = missed == self._missed

    async def _ask(self) -> None:
        """Ask about those whom we were told of."""
        while self._doubtful:
            some = sorted(self._doubtful)[:_KEYS]
            self._doubtful.difference_update(some)
            try:
                standing = await self._revocations.of(some, int(self._now()))
            except BaseException:
                self._doubtful.update(some)
                raise
            found: dict[str, float] = {}
            _add(found, standing)
            for key in some:
                # Told of once more while we asked, it is in doubt again.
                if key in self._doubtful:
                    continue
                if key in found:
                    self._until[key] = found[key]
                else:
                    self._until.pop(key, None)


def _keys_of(connect: Connect) -> Sequence[str]:
    tokens = [digest_name(one) for one in (connect.password, connect.token) if one]
    return keys_of(username=connect.username, client_id=connect.client_id, tokens=tokens)


def _add(found: dict[str, float], standing: Sequence[Standing]) -> None:
    """Note until when each is refused; of several for one key the longest counts."""
    for one in standing:
        end = _FOR_EVER if one.until is None else float(one.until)
        found[one.key] = max(end, found.get(one.key, 0.0))
