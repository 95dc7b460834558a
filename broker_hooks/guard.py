"""The guard before authentication: who was refused too often is refused unseen for a while, at no cost.

Refused logins are counted per user name and address together, so that guessing from one place locks nobody out elsewhere; names
that do not exist count alike. The counts are shared by all replicas where the store is; who is over the limit is remembered in each
process, so that an admitted login costs no round trip.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from companion.core.errors import CompanionError
from companion.core.model import Connect, Decision, Deny, Reason
from companion.core.ports import Counters

log = structlog.get_logger("broker_hooks.guard")

_COUNTED: Final = frozenset(
    {
        Reason.UNKNOWN_USER,
        Reason.WRONG_PASSWORD,
        Reason.UNUSABLE_HASH,
        Reason.ACCOUNT_DISABLED,
        Reason.ACCOUNT_EXPIRED,
        Reason.TOKEN_INVALID,
        Reason.TOKEN_EXPIRED,
        Reason.TOKEN_CLAIMS,
        Reason.WRONG_PRINCIPAL,
        Reason.WRONG_CLIENT_ID,
        Reason.SECRET_EXPIRED,
        Reason.SECRET_NOT_YET,
        Reason.ADDRESS_NOT_ALLOWED,
        Reason.WRONG_CERTIFICATE,
        Reason.CERTIFICATE_EXPIRED,
        Reason.CERTIFICATE_NOT_YET,
    }
)
"""What somebody who guesses meets; not what we are to blame for."""

_THROTTLED: Final = Deny(Reason.THROTTLED)
_REMEMBERED: Final = 100_000
_IPV6_NETWORK: Final = 64
"""A network of this size belongs to one customer (RFC 6177)."""


class Guard:
    """Counts refused logins; from `failures` in `seconds` on, the pair is refused for `seconds`. 0 failures: no limit.

    `keys` are those of the hooks, which all replicas have: what is counted under are digests made with them, so that no name
    reaches the counters in clear. It is counted under each, since while they are changed replicas have some of them only: whichever
    goes, or is not there yet, nothing is forgotten.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        keys: Sequence[str],
        failures: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counters = counters
        self._keys: tuple[bytes, ...] = ()
        self.use(keys)
        self._failures = failures
        self._seconds = seconds
        self._clock = clock
        self._refused: dict[str, float] = {}

    def use(self, keys: Sequence[str]) -> None:
        """Let these be the keys from now on. Whoever is refused in this process stays so while one of the keys stays."""
        self._keys = tuple(hashlib.blake2b(key.encode(), person=b"throttle").digest() for key in keys)

    async def judge(self, connect: Connect, authenticate: Callable[[Connect], Awaitable[Decision]]) -> Decision:
        """Return the verdict of `authenticate`, unless this user name was refused too often at this address."""
        if not self._failures:
            return await authenticate(connect)
        # The digest is only worth its time while somebody is refused.
        if self._refused and any(self._is_refused(pair) for pair in self._pairs(connect)):
            return _THROTTLED
        decision = await authenticate(connect)
        if decision.reason in _COUNTED:
            await asyncio.gather(*(self._count(pair) for pair in self._pairs(connect)))
        return decision

    def _is_refused(self, pair: str) -> bool:
        until = self._refused.get(pair)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self._refused[pair]
        return False

    async def _count(self, pair: str) -> None:
        try:
            count = await self._counters.add(pair, self._seconds)
        except CompanionError as problem:
            log.warning("a refused login was not counted", problem=str(problem))
            return
        if count >= self._failures:
            while len(self._refused) >= _REMEMBERED:
                del self._refused[next(iter(self._refused))]
            self._refused.pop(pair, None)
            self._refused[pair] = self._clock() + self._seconds

    def _pairs(self, connect: Connect) -> Sequence[str]:
        """Return the digests of the pair, one for each key."""
        username, network = (
            connect.username.encode(errors="replace"),
            _network(connect.peer_host).encode(errors="replace"),
        )
        pair = len(username).to_bytes(4) + username + network
        return [hmac.new(key, pair, hashlib.sha256).hexdigest() for key in self._keys]


def _network(peer_host: str) -> str:
    """Return the address, of IPv6 the network; what is no address stands for itself."""
    try:
        address = ipaddress.ip_address(peer_host)
    except ValueError:
        return peer_host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_NETWORK), strict=False))
    return str(address)
