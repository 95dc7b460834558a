"""Passwords that were checked before: a storm of clients that come back costs a keyed digest each instead of a bcrypt.

What is remembered is a mark: a keyed digest (BLAKE2b, RFC 7693, which is a MAC without HMAC around it, in half the time), under the
deployment's credential key, over the account as it stands (its *version*: hash, disabled, expiry, whatever belongs to it but
rules), the user name and the password. Who changes a password, or anything else of an account, so leaves nothing behind that fits;
there is nothing to invalidate. Whether the account may be used *now* is not remembered at all, and judged each time.

Where a store is shared, right passwords are remembered there too, so that a restart of every replica costs no storm. Under the
first half of the mark lies a proof: until when it holds, and a digest of that keyed with the second half. So who can read that
store learns nothing that a password could be guessed against without the key, and who can write there can let nobody in: a proof
can only be made by who knows the mark, and the mark by who knows key and password. The key itself is in no store.

Wrong passwords are remembered for seconds, in this process, so that a client that tries the same one again and again costs nothing.
Their answers are held back to a grid of time, on which looking up an account that exists or does not is no longer seen.

Those who ask for the same at the same time share one check. When the last of them has gone, a check that has not begun is not made.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Final

import msgspec

from broker_hooks.cache import Cache
from broker_hooks.password_pool import Abandoned, Interest, Overloaded
from companion.core.errors import CompanionError
from companion.core.model import Account, Deny, Reason
from companion.core.ports import Proofs
from companion.metrics import Metrics

_MARK_HALF: Final = 32
_UNTIL_BYTES: Final = 8
_PROOF_BYTES: Final = 32
_GRID_SECONDS: Final = 0.02
_MOST_REFUSED: Final = 10_000
_REMEMBERED: Final = frozenset({Reason.UNKNOWN_USER, Reason.WRONG_PASSWORD, Reason.UNUSABLE_HASH})
"""Refusals that would come out the same again."""

# Rules say what somebody may do, not who somebody is; all else, also what will be added, makes an account another one.
_version: Final = attrgetter(*(one.name for one in fields(Account) if one.compare and one.name != "rules"))
# Sets in one order: replicas must come to the same bytes.
_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check came to: None, or why the password is refused; and until when that holds (Unix seconds)."""

    deny: Deny | None = None
    until: float = math.inf


@dataclass(slots=True)
class _Flight:
    """One check, and how many wait for it."""

    outcome: asyncio.Future[Deny | None]
    interest: Interest
    waiting: int = 0


class VerifiedCredentials:
    """Remembers up to `entries` right passwords for `seconds` (0: none), and wrong ones for `refused_seconds`.

    Nobody waits for longer than `deadline` (seconds). Every replica needs the same `key` to make use of what others remember.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        key: str,
        deadline: float,
        entries: int,
        seconds: float,
        refused_seconds: float,
        shared: Proofs | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._key = hashlib.blake2b(key.encode(), person=b"credentials", digest_size=64).digest()
        self._deadline = deadline
        self._shared = shared if seconds else None
        self._clock = clock
        self._now = now
        entries_of_right = entries if seconds else 0
        self._right: Cache[bytes, float] = Cache("credential", entries_of_right, seconds or 1.0, metrics, clock)
        entries_of_wrong = min(entries, _MOST_REFUSED) if refused_seconds else 0
        self._wrong: Cache[bytes, Deny] = Cache("refused", entries_of_wrong, refused_seconds or 1.0, metrics, clock)
        self._flights: dict[bytes, _Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._checks = metrics.logins.checks
        self._looked = metrics.logins.shared

    def knows(self, account: Account, username: str, password: bytes) -> bool:
        """Tell whether this password of this account is known to be right, here and now: most logins need no more than that."""
        return self._right.get(self._mark(account, username, password)[:_MARK_HALF]) is not None

    def recalls(self, account: Account, username: str, password: bytes) -> bool:
        """Tell the same; only a yes counts as a look."""
        known = self._right.recall(self._mark(account, username, password)[:_MARK_HALF]) is not None
        if known:
            self._right.used()
        return known

    async def refusal(
        self,
        account: Account | None,
        username: str,
        password: bytes,
        check: Callable[[], Awaitable[Verdict]],
        begun: float,
    ) -> Deny | None:
        """Return why this password of this account is refused; None when it is right. `check` is asked where nobody knows.

        `begun` is when the login began, by our clock. Raises `Overloaded`, and whatever `check` raises.
        """
        mark = self._mark(account, username, password)
        name = mark[:_MARK_HALF]
        # Another may have found it right since `knows` was asked; it does not count as another look.
        if account is not None and self._right.stale(name) is not None:
            return None
        refused = self._wrong.get(name)
        if refused is not None:
            await asyncio.sleep(_until_the_grid(self._clock() - begun))
            return refused
        return await self._joined(name, mark, account, check)

    async def close(self) -> None:
        """Begin nothing more; give up what is under way."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _mark(self, account: Account | None, username: str, password: bytes) -> bytes:
        version = None if account is None else _version(account)
        return hashlib.blake2b(_encode((version, username, password)), key=self._key, digest_size=64).digest()

    async def _joined(
        self, name: bytes, mark: bytes, account: Account | None, check: Callable[[], Awaitable[Verdict]]
    ) -> Deny | None:
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = _Flight(asyncio.get_running_loop().create_future(), Interest())
            task = asyncio.ensure_future(self._fly(flight, name, mark, account, check))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._checks["joined"].count += 1
            flight.interest.lost = False
        flight.waiting += 1
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.shield(flight.outcome)
        except TimeoutError:
            self._checks["overloaded"].count += 1
            raise Overloaded("the password was not checked in time") from None
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.outcome.done():
                if flight.interest.waiting is not None and self._flights.get(name) is flight:
                    # It leaves the queue: who comes now begins anew.
                    del self._flights[name]
                flight.interest.lose()

    async def _fly(
        self,
        flight: _Flight,
        name: bytes,
        mark: bytes,
        account: Account | None,
        check: Callable[[], Awaitable[Verdict]],
    ) -> None:
        outcome = flight.outcome
        try:
            until = None if account is None else await self._known_to_others(mark)
            verdict = Verdict() if until is not None else await self._checked(flight, check)
            if verdict.deny is None:
                until = self._remember(name, until, verdict.until)
            elif verdict.deny.reason in _REMEMBERED:
                self._wrong.put(name, verdict.deny, self._wrong.epoch, self._clock_at(verdict.until))
        except (Exception, asyncio.CancelledError) as problem:
            if not outcome.done():
                closing = isinstance(problem, asyncio.CancelledError)
                outcome.set_exception(Overloaded("the hooks are closing") if closing else problem)
                outcome.exception()  # when all have gone nobody needs to hear of it
            if isinstance(problem, asyncio.CancelledError):
                raise
            return
        finally:
            if self._flights.get(name) is flight:
                del self._flights[name]
        if not outcome.done():
            outcome.set_result(verdict.deny)
        if verdict.deny is None and until is not None:
            # Behind the answer's back: nobody waits for it.
            await self._tell_others(mark, until)

    async def _checked(self, flight: _Flight, check: Callable[[], Awaitable[Verdict]]) -> Verdict:
        flight.interest.of_this_task()
        try:
            verdict = await check()
        except Abandoned:
            self._checks["abandoned"].count += 1
            raise
        except Overloaded:
            self._checks["overloaded"].count += 1
            raise
        self._checks["right" if verdict.deny is None else "wrong"].count += 1
        return verdict

    def _remember(self, name: bytes, known_until: float | None, until: float) -> float | None:
        """Remember a right password; return until when others may (Unix seconds), None where there is nothing to tell them."""
        ends = until if known_until is None else known_until
        self._right.put(name, ends, self._right.epoch, self._clock_at(ends))
        if known_until is not None or self._shared is None:
            return None
        left = self._right.end(name) - self._clock()
        return self._now() + left if 0 < left < math.inf else None

    def _clock_at(self, unix: float) -> float:
        return self._clock() + (unix - self._now())

    async def _known_to_others(self, mark: bytes) -> float | None:
        """Return until when another process knows the password to be right, or None."""
        if self._shared is None:
            return None
        try:
            proof = await self._shared.get(mark[:_MARK_HALF].hex())
        except CompanionError:
            self._looked["away"].count += 1
            return None
        if proof is None:
            self._looked["miss"].count += 1
            return None
        milliseconds = int.from_bytes(proof[:_UNTIL_BYTES])
        if not hmac.compare_digest(proof, _proof(mark, milliseconds)):
            self._looked["forged"].count += 1
            return None
        until = milliseconds / 1000
        if until <= self._now():
            self._looked["miss"].count += 1
            return None
        self._looked["hit"].count += 1
        return until

    async def _tell_others(self, mark: bytes, until: float) -> None:
        if self._shared is None:
            return
        try:
            await self._shared.put(mark[:_MARK_HALF].hex(), _proof(mark, int(until * 1000)), until - self._now())
        except CompanionError:
            self._looked["away"].count += 1


def _proof(mark: bytes, until: int) -> bytes:
    """Return what tells whoever knows the mark until when it holds (Unix milliseconds)."""
    moment = until.to_bytes(_UNTIL_BYTES)
    return moment + hashlib.blake2b(moment, key=mark[_MARK_HALF:], digest_size=_PROOF_BYTES).digest()


def _until_the_grid(taken: float) -> float:
    """Return how long after `taken` seconds the next line of the grid is."""
    return _GRID_SECONDS - taken % _GRID_SECONDS
