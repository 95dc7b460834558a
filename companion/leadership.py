"""Being the only one: work that runs in one process at a time, under a lease that is renewed while it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from companion.core.errors import CompanionError, Fenced
from companion.core.ports import Held, Lease, Leases

log = structlog.get_logger("companion.leadership")

_RENEWALS: Final = 3
"""How often in its time a lease is renewed: two failures in a row lose nothing."""

_MARGIN: Final = 0.1
"""The share of its time by which we let go of a lease before the store does: clocks differ, and a write takes its time."""

_AWAY_SECONDS: Final = (0.2, 2.0)

_RENEW_PAUSE: Final = 0.05
"""The least time between two attempts to renew: a store that refuses connections answers at once."""


class Term:
    """One time of being the only one. `valid` is cheap: ask right before each write that nobody else may make."""

    def __init__(self, lease: Lease, seconds: float, asked_at: float, clock: Callable[[], float]) -> None:
        self.lease = lease
        self._clock = clock
        self._until = 0.0
        self.extend(asked_at, seconds)

    def extend(self, asked_at: float, seconds: float) -> None:
        """Count from the moment the store was asked: the lease cannot end before that."""
        self._until = asked_at + seconds * (1 - _MARGIN)

    @property
    def left(self) -> float:
        """For how many seconds the lease is surely ours."""
        return self._until - self._clock()

    @property
    def valid(self) -> bool:
        """Whether the lease is surely ours. A process that was stopped for too long sees at once that it is not."""
        return self._clock() < self._until


class Leadership:
    """Takes turns with other processes at `name`; `seconds` is how long one that died holds back the next."""

    def __init__(
        self, leases: Leases, name: str, holder: str, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.status = "waiting for the store"
        """In a few words whether we lead, for people."""
        self.leading = False
        self._leases = leases
        self._name = name
        self._holder = holder
        self._seconds = seconds
        self._clock = clock
        self._ending = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """Whether the work shall come to its end."""
        return self._ending.is_set()

    def stop(self) -> None:
        """Ask for no lease any more: `run` returns once the work of the present term, if any, has returned."""
        self._ending.set()

    async def ended(self, seconds: float) -> None:
        """Wait up to `seconds` until `run` has returned and the lease is given back."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    async def run(self, work: Callable[[Term], Awaitable[None]]) -> None:
        """Do the work whenever the lease is ours, until it returns after `stop`.

        The work is cancelled when the lease is lost, and begun anew with the next. `Fenced` from the work means the same. A store
        that is away grants nothing, and is asked again.
        """
        try:
            while (term := await self._acquire()) is not None:
                log.info("leading", name=self._name, fence=term.lease.token)
                await self._lead(term, work)
        finally:
            self._ended.set()

    async def once(self, work: Callable[[Term], Awaitable[None]]) -> bool:
        """Do the work if the lease is free, and give it back; False, without any work, when it is not or the store is away."""
        asked_at = self._clock()
        try:
            answer = await self._leases.acquire(self._name, self._holder, self._seconds)
        except CompanionError as problem:
            self.status = f"waiting for the store: {problem}"
            return False
        if isinstance(answer, Held):
            self.status = f"standby: {answer.holder} has the lease"
            return False
        await self._lead(Term(answer, self._seconds, asked_at, self._clock), work)
        return True

    async def _lead(self, term: Term, work: Callable[[Term], Awaitable[None]]) -> None:
        self.leading, self.status = True, "leading"
        try:
            lost = await self._serve(term, work)
        finally:
            self.leading, self.status = False, "waiting"
            with contextlib.suppress(CompanionError, TimeoutError):
                async with asyncio.timeout(_AWAY_SECONDS[1]):
                    await self._leases.release(term.lease)
        if lost:
            log.warning("the lease was lost: what was not finished is begun anew", name=self._name)
            await asyncio.sleep(_AWAY_SECONDS[0])

    async def _acquire(self) -> Term | None:
        """Wait until the lease is ours; None when we were told to stop."""
        pause, longest = _AWAY_SECONDS
        away = False
        while not self._ending.is_set():
            asked_at = self._clock()
            try:
                answer = await self._leases.acquire(self._name, self._holder, self._seconds)
            except CompanionError as problem:
                if not away:
                    log.warning("no lease while the store is away", name=self._name, problem=str(problem))
                away, self.status = True, "waiting for the store"
                wait = pause * (0.5 + random.random() / 2)  # noqa: S311 - spreads retries, protects nothing
                pause = min(pause * 2, longest)
            else:
                if isinstance(answer, Lease):
                    return Term(answer, self._seconds, asked_at, self._clock)
                away, pause = False, _AWAY_SECONDS[0]
                self.status = f"standby: {answer.holder} has the lease"
                wait = self._wait_for(answer)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._ending.wait()
        return None

    def _wait_for(self, held: Held) -> float:
        """Return when to ask again: as soon as the lease can run out, and now and then in case it is given back."""
        return max(0.01, min(held.seconds + 0.01, self._seconds / 5))

    async def _serve(self, term: Term, work: Callable[[Term], Awaitable[None]]) -> bool:
        """Do the work and renew the lease meanwhile; tell whether the lease was lost before the work was done."""
        working = asyncio.ensure_future(work(term))
        renewing = asyncio.ensure_future(self._keep(term))
        try:
            await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            renewing.cancel()
            working.cancel()
            # Both have to be over before the lease is given back, whatever ends us meanwhile.
            await asyncio.gather(working, renewing, return_exceptions=True)
        for task in (working, renewing):
            problem = None if task.cancelled() else task.exception()
            if problem is not None and not _is_fenced(problem):
                raise problem
        return working.cancelled() or working.exception() is not None

    async def _keep(self, term: Term) -> None:
        """Renew until the lease is lost."""
        away = False
        while term.valid:
            # Never past its end: then the work has to stop.
            await asyncio.sleep(max(0.0, min(self._seconds / _RENEWALS, term.left, max(_RENEW_PAUSE, term.left / 2))))
            asked_at = self._clock()
            try:
                async with asyncio.timeout(max(0.01, term.left)):
                    kept = await self._leases.renew(term.lease, self._seconds)
            except (CompanionError, TimeoutError) as problem:
                if not away:
                    log.warning("the lease was not renewed", name=self._name, problem=str(problem))
                away = True
                continue
            if not kept:
                return
            away = False
            term.extend(asked_at, self._seconds)


def _is_fenced(problem: BaseException) -> bool:
    if isinstance(problem, BaseExceptionGroup):
        return all(_is_fenced(inner) for inner in problem.exceptions)
    return isinstance(problem, Fenced)
