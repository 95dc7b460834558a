"""The guard before authentication: who was refused too often is refused unseen for a while, at no cost.

Refused logins are counted twice: per user name and address, so that guessing from one place locks nobody out elsewhere, and per
address, so that guessing at many names does not go on for ever either; names that do not exist count alike. From the limit on the
target is locked out, each time twice as long as the last.

Counts and lock-outs are shared by all processes where the store is. Each process remembers who is locked out and follows the store,
second by second, so that an admitted login costs no round trip; it asks once before it serves, so that no restart lets anybody go
on. While the store is away each process counts, and locks out, alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from broker_hooks.addresses import Places, place_of
from broker_hooks.banning import Banner
from broker_hooks.flapping import Flapping
from companion.core.errors import CompanionError
from companion.core.lockouts import Growth, Lockout, Target
from companion.core.model import Connect, Decision, Deny, Reason
from companion.core.ports import Counters, Lockouts
from companion.metrics import Metrics

log = structlog.get_logger("broker_hooks.guard")

_NOT_GUESSING: Final = frozenset(
    {
        Reason.MALFORMED,
        Reason.TOO_LARGE,
        Reason.UNKNOWN_ENDPOINT,
        Reason.NO_CREDENTIALS,
        Reason.KEYS_AWAY,
        Reason.THROTTLED,
        Reason.ADDRESS_THROTTLED,
        Reason.FLAPPING,
        Reason.REVOKED,
        Reason.OVERLOADED,
        Reason.DEADLINE,
        Reason.STORE_AWAY,
        Reason.INTERNAL,
    }
)
"""Refusals that nobody meets by guessing (who is revoked has the right credential), or that are our fault; all others count."""

_REMEMBERED: Final = 100_000
_FOLLOW_SECONDS: Final = 1.0
_CATCH_UP_SECONDS: Final = 2.0
_AT_ONCE: Final = 1000
_MEMORY_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """From `failures` of a name at an address, or `address_failures` of an address, in `seconds` on it is locked out; 0: never.

    The first time for `seconds`, then for twice as long each time, but for no longer than `longest`; a day after its end a lock-out
    is forgotten.
    """

    failures: int
    address_failures: int
    seconds: float
    longest: float

    @property
    def growth(self) -> Growth:
        """How lock-outs grow."""
        return Growth(self.seconds, self.longest, _MEMORY_SECONDS)


class Guard:
    """Counts refused logins, locks out, and knows who is locked out.

    `keys` are those of the hooks, which all replicas have: what is counted under are digests made with them, so that no name
    reaches the counters in clear. It is counted under each, since while they are changed replicas have some of them only: whichever
    goes, or is not there yet, nothing is forgotten.
    """

    def __init__(
        self,
        counters: Counters,
        lockouts: Lockouts,
        metrics: Metrics,
        limits: Limits,
        *,
        keys: Sequence[str],
        exempt: Sequence[str] = (),
        flapping: Flapping | None = None,
        banner: Banner | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._counters = counters
        self._lockouts = lockouts
        self._made = metrics.logins.lockouts
        self._limits = limits
        self._growth = limits.growth
        self._keys: tuple[bytes, ...] = ()
        self.use(keys)
        self._exempt = Places(exempt)
        self._flapping = flapping if flapping is not None and flapping.limits else None
        self._banner = banner
        self._now = now
        self._locked: dict[str, Lockout] = {}
        self._number = 0
        metrics.logins.locked_out.set_function(self._holding)

    def use(self, keys: Sequence[str]) -> None:
        """Let these be the keys from now on. Whoever is locked out stays so while one of the keys stays."""
        self._keys = tuple(hashlib.blake2b(key.encode(), person=b"throttle").digest() for key in keys)

    async def judge(self, connect: Connect, authenticate: Callable[[Connect], Awaitable[Decision]]) -> Decision:
        """Return the verdict of `authenticate`, unless this user name at this address, or everybody there, is locked out."""
        if self._exempt.holds(connect.peer_host):
            return await authenticate(connect)
        # The digests are only worth their time while somebody is locked out.
        if self._locked:
            refused = self._refusal(connect)
            if refused is not None:
                return refused
        if self._flapping is not None:
            refused = self._flapping.refusal(connect)
            if refused is not None:
                return refused
        decision = await authenticate(connect)
        if isinstance(decision, Deny) and decision.reason not in _NOT_GUESSING:
            await self._count(connect)
        return decision

    def recall(self, connect: Connect, recall: Callable[[Connect], Decision | None]) -> Decision | None:
        """Return the same as far as memory knows, where `recall` is the verdict from memory; None where it has to be asked."""
        if self._exempt.holds(connect.peer_host):
            return recall(connect)
        if self._locked and self._refusal(connect) is not None:
            return None
        decision = recall(connect)
        # Every connect counts once: those that are asked about are counted there.
        refused = None if decision is None or self._flapping is None else self._flapping.refusal(connect)
        return decision if refused is None else refused

    async def catch_up(self) -> None:
        """Learn who is locked out, before serving; a store that is away is not waited for."""
        try:
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                await self._follow()
        except (CompanionError, TimeoutError) as problem:
            log.warning("who is locked out is not known yet", problem=str(problem) or "no answer in time")

    async def follow(self) -> None:
        """Learn, until cancelled, who was locked out or let go by others."""
        away = False
        while True:
            try:
                await self._follow()
                away = False
            except CompanionError as problem:
                if not away:
                    log.warning("lock-outs of others are not heard of", problem=str(problem))
                away = True
            await asyncio.sleep(_FOLLOW_SECONDS)

    async def _follow(self) -> None:
        while True:
            told = await self._lockouts.after(self._number, _AT_ONCE)
            for lockout in told:
                self._number = lockout.number
                if lockout.holds(self._now()):
                    self._remember(lockout)
                else:
                    self._locked.pop(lockout.target.key, None)
            if len(told) < _AT_ONCE:
                return

    def _refusal(self, connect: Connect) -> Deny | None:
        place = place_of(connect.peer_host)
        for reason, username in ((Reason.THROTTLED, connect.username), (Reason.ADDRESS_THROTTLED, None)):
            for key in self._digests(username, place):
                lockout = self._locked.get(key)
                if lockout is None:
                    continue
                if lockout.holds(self._now()):
                    return Deny(
                        reason, detail=f"locked out for the {lockout.times}. time, until {_moment(lockout.until)}"
                    )
                del self._locked[key]
        return None

    async def _count(self, connect: Connect) -> None:
        place = place_of(connect.peer_host)
        counted = []
        for number, digest in enumerate(self._digests(connect.username, place)):
            target = Target.of(digest, connect.username, place)
            counted.append(self._count_one(target, connect, first=not number))
        # Where the broker does not tell the address, all clients would be one.
        if self._limits.address_failures and place:
            for number, digest in enumerate(self._digests(None, place)):
                counted.append(self._count_one(Target.of(digest, "", place), connect, first=not number))
        await asyncio.gather(*counted)

    async def _count_one(self, target: Target, connect: Connect, *, first: bool) -> None:
        scope = "account" if target.key.startswith(_ACCOUNT) else "address"
        most = self._limits.failures if scope == "account" else self._limits.address_failures
        if not most:
            return
        try:
            if await self._counters.add(target.key, self._limits.seconds) < most:
                return
            lockout = await self._lockouts.lock(target, self._growth)
        except CompanionError as problem:
            log.warning("a refused login was not counted", problem=str(problem))
            return
        known = self._locked.get(target.key)
        self._remember(lockout)
        if not first or (known is not None and known.until == lockout.until):
            return
        self._made[scope].count += 1
        log.warning(
            "locked out",
            scope=scope,
            username=target.username,
            address=target.address,
            times=lockout.times,
            until=_moment(lockout.until),
        )
        if self._banner is not None:
            self._banner.told(lockout, connect.peer_host)

    def _remember(self, lockout: Lockout) -> None:
        self._locked.pop(lockout.target.key, None)
        while len(self._locked) >= _REMEMBERED:
            del self._locked[next(iter(self._locked))]
        self._locked[lockout.target.key] = lockout

    def _holding(self) -> int:
        now = self._now()
        return sum(lockout.holds(now) for lockout in self._locked.values())

    def _digests(self, username: str | None, place: str) -> Sequence[str]:
        """Return what a target is counted under, one for each key: no name reaches the counters in clear."""
        what, kind = place.encode(errors="replace"), _ADDRESS
        if username is not None:
            name = username.encode(errors="replace")
            what, kind = len(name).to_bytes(4) + name + what, _ACCOUNT
        return [kind + hashlib.blake2b(what, key=key, digest_size=24).hexdigest() for key in self._keys]


_ACCOUNT: Final = "u-"
_ADDRESS: Final = "a-"


def _moment(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(milliseconds / 1000))
