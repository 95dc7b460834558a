"""The revoker: does what is left to do about revocations, in one process at a time, under a lease.

    due ──▶ claimed under the fence ──▶ a step ──▶ noted ──▶ the next step … done

What is done is noted step by step, so that whoever takes over goes on where it stands; a step whose note was lost is done
once more. What fails is tried again, for as long as it takes, after a pause that grows: meanwhile the hooks refuse, and the metrics
tell how long the oldest waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from companion.core.errors import CompanionError, Fenced, Permanent
from companion.core.ports import Revocations
from companion.core.revocations import Done, Revocation, Step
from companion.leadership import Term
from companion.metrics import Metrics
from maintenance.revocation_steps import Steps

log = structlog.get_logger("maintenance.revoker")

LOOK_SECONDS: Final = 0.2
_AT_ONCE: Final = 16
_PAUSE: Final = (0.5, 30.0)
_GAUGE_SECONDS: Final = 2.0
_MOST_DOUBLINGS: Final = 10


class Revoker:
    """Does what is due. `settle` seconds after everybody was told it is looked for who came in meanwhile; `now` is Unix seconds."""

    def __init__(
        self,
        revocations: Revocations,
        steps: Steps,
        metrics: Metrics,
        *,
        settle: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._revocations = revocations
        self._steps = steps
        self._metrics = metrics.revocations
        self._settle = settle
        self._now = now
        self._news = asyncio.Event()
        self._stopping = False
        self._active: set[str] = set()

    def wake(self) -> None:
        """Tell that somebody was revoked."""
        self._news.set()

    def stop(self) -> None:
        """Begin nothing more; what is under way comes to the end of its step."""
        self._stopping = True
        self.wake()

    async def run(self, term: Term) -> None:
        """Do what is due while the lease is ours, until `stop`. Raises `Fenced`, in a group, when it is not any more."""
        away = False
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                self._news.clear()
                try:
                    # Those under way are due as well.
                    for one in await self._revocations.due(self._milliseconds(), 2 * _AT_ONCE):
                        if one.id not in self._active and len(self._active) < _AT_ONCE:
                            self._active.add(one.id)
                            group.create_task(self._work(one.id, term))
                    away = False
                except CompanionError as problem:
                    if not away:
                        log.warning("revocations wait while the store is away", problem=str(problem))
                    away = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._news.wait()

    async def watch(self) -> None:
        """Show how much waits and for how long, whoever does it; never returns."""
        while True:
            with contextlib.suppress(CompanionError):
                waiting = await self._revocations.waiting()
                self._metrics.waiting.set(waiting.count)
                since = self._now() if waiting.oldest is None else waiting.oldest / 1000
                self._metrics.oldest.set(max(0.0, self._now() - since))
            await asyncio.sleep(_GAUGE_SECONDS)

    async def _work(self, revocation_id: str, term: Term) -> None:
        """Do one step after the other for as long as one is due."""
        try:
            record = await self._revocations.claim(revocation_id, term.lease.token)
            while record is not None and record.waiting and record.due_at <= self._milliseconds():
                _check(term)
                record = await self._revocations.note(await self._step(record))
                if self._stopping:
                    return
        except Fenced:
            raise
        except CompanionError as problem:
            log.warning("a revocation was not noted and goes on later", revocation=revocation_id, problem=str(problem))
        finally:
            self._active.discard(revocation_id)
            self.wake()

    async def _step(self, record: Revocation) -> Revocation:
        """Do the next step, and return the record as it is to be noted."""
        step = record.next
        if step is None:
            return replace(record, waiting=False)
        began = self._now()
        try:
            detail = await self._steps.do(record, step)
        except Fenced:
            raise
        except CompanionError as problem:
            # A ban that is refused for good must not keep anybody connected.
            if step is not Step.BAN or not isinstance(problem, Permanent):
                return self._later(record, step, problem)
            detail = f"refused: {problem}"
            log.error("the broker refuses a ban", revocation=record.id, problem=str(problem))
        now = self._now()
        done = Done(step, int(now * 1000), int((now - began) * 1000), detail)
        if step is Step.KICK:
            self._metrics.to_kick.observe(max(0.0, now - record.at / 1000))
        after = record.after(done, done.at)
        told = after.done(Step.TOLD)
        if told is not None and after.next in after.settled:
            after = replace(after, due_at=max(done.at, told.at + int(self._settle * 1000)))
        if not after.waiting:
            self._metrics.ended.labels(record.cause.value if record.lifted_at is None else "lifted").inc()
            log.info("revocation done", revocation=record.id, target=record.target.value, cause=record.cause.value)
        return after

    def _later(self, record: Revocation, step: Step, problem: CompanionError) -> Revocation:
        first, longest = _PAUSE
        pause = min(longest, first * 2 ** min(record.attempts, _MOST_DOUBLINGS))
        pause *= 0.5 + random.random() / 2  # noqa: S311 - spreads retries, protects nothing
        self._metrics.failures.labels(step.value).inc()
        if not record.attempts:
            log.warning("a revocation is not done yet", revocation=record.id, step=step.value, problem=str(problem))
        return replace(
            record, attempts=record.attempts + 1, error=str(problem), due_at=int((self._now() + pause) * 1000)
        )

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)


def _check(term: Term) -> None:
    if not term.valid:
        raise Fenced("the lease of the revoker ran out")
