"""The engine: takes runs that are due, one of each job at a time over all processes, and sees them through.

    a schedule or a person ──▶ a record that waits ──▶ the job's lease ──▶ batches, noted under the fence ──▶ the end

The records are the queue: what was asked for survives whoever was to do it. A run whose process died is found when its lease has
run out, and goes on where its progress says.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import structlog

from companion.core.errors import CompanionError, Fenced, Invalid, Transient
from companion.core.ports import Store
from companion.core.runs import Run, RunState, Trigger
from companion.job_settings import JobSettings
from companion.leadership import Leadership, Term
from companion.logs import told
from companion.metrics import Metrics
from companion.settings import Settings
from maintenance.job import Job, Work
from maintenance.records import retry_of, tick_of

log = structlog.get_logger("maintenance.engine")

_LOOK_SECONDS: Final = 0.5
_ABANDONED_SECONDS: Final = 2.0
_CANCEL_SECONDS: Final = 0.4
_NOTE_SECONDS: Final = 0.2
"""How often progress is noted: a note costs a durable write, as much as a small batch does."""

_PAUSE: Final = (0.1, 2.0)


class Engine:
    """Runs jobs until it is told to stop."""

    def __init__(
        self,
        *,
        jobs: Mapping[str, Job],
        served: frozenset[str],
        schedules: Mapping[str, JobSettings],
        settings: Settings,
        store: Store,
        metrics: Metrics,
        holder: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.problem: str | None = None
        """Why runs cannot be taken, in one line; None while they can."""
        self._jobs = {name: jobs[name] for name in served}
        self._schedules = schedules
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._holder = holder
        self._now = now
        self._began = self._milliseconds()
        self._active: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self._news = asyncio.Event()
        self._looked_for_abandoned = float("-inf")
        self._unknown = set(self._jobs)

    def wake(self) -> None:
        """Tell that there is something new to run."""
        self._news.set()

    async def tick(self, name: str, due_at: int) -> None:
        """Ask for the run of a job that was due at this time (Unix milliseconds), as soon as the store can be asked.

        A tick is skipped while one waits already, and given up when nobody could ask for longer than its grace. One from before we
        began was missed only where the job has been run before: a new installation has missed nothing.
        """
        schedule, pause = self._schedules[name], _PAUSE[0]
        while not self._stopping:
            if self._now() - due_at / 1000 > schedule.grace:
                self._metrics.jobs.skipped.labels(name, "late").inc()
                log.warning("a tick was given up", job=name, due_at=due_at)
                return
            try:
                if due_at < self._began and not await self._store.runs.list(jobs=[name], limit=1):
                    return
                waiting = await self._store.runs.list(jobs=[name], states=[RunState.WAITING], limit=10)
                if any(run.trigger is Trigger.SCHEDULE and run.due_at < due_at for run in waiting):
                    self._metrics.jobs.skipped.labels(name, "coalesced").inc()
                elif await self._store.runs.add(tick_of(name, due_at, self._milliseconds(), self._reserved)):
                    self.wake()
            except CompanionError as problem:
                self.problem = str(problem)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _PAUSE[1])
            else:
                return

    async def run(self) -> None:
        """Take what is due until cancelled; what runs ends with us."""
        try:
            while not self._stopping:
                try:
                    await self._remember_successes()
                    await self._look()
                    self.problem = None
                except CompanionError as problem:
                    if self.problem is None:
                        log.warning("no runs are taken while the store is away", problem=str(problem))
                    self.problem = str(problem)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._news.wait()
                self._news.clear()
            await asyncio.gather(*self._active.values(), return_exceptions=True)
        finally:
            tasks = list(self._active.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def finish(self, seconds: float) -> None:
        """Take nothing more; let what runs come to the end of its batch, where it is put back for another life."""
        self._stopping = True
        self.wake()
        if self._active:
            await asyncio.wait(list(self._active.values()), timeout=seconds)

    async def _remember_successes(self) -> None:
        """Once, show when each job was last done, by whichever process."""
        for name in sorted(self._unknown):
            done = await self._store.runs.list(jobs=[name], states=[RunState.DONE], limit=10)
            ended = [run.ended_at for run in done if run.ended_at is not None and not run.dry]
            self._metrics.jobs.success.labels(name).set(max(ended, default=0) / 1000)
            self._unknown.discard(name)

    async def _look(self) -> None:
        free = [name for name in self._jobs if name not in self._active]
        if not free or len(self._active) >= self._settings.jobs_concurrency:
            return
        for run in await self._store.runs.waiting(free, self._milliseconds()):
            if self._is_ours(run):
                self._take(run)
        if time.monotonic() - self._looked_for_abandoned >= _ABANDONED_SECONDS:
            self._looked_for_abandoned = time.monotonic()
            for run in await self._store.runs.list(jobs=free, states=[RunState.RUNNING]):
                if self._now() - (run.beat_at or 0) / 1000 > self._jobs[run.job].lease_seconds / 2:
                    self._take(run)

    @property
    def _reserved(self) -> str:
        """For whom our ticks are meant: with a queue for anybody."""
        return "" if self._settings.jobs_mode == "queue" else self._holder

    def _is_ours(self, run: Run) -> bool:
        """Tell whether to take a run that waits; one that is meant for another is taken when that one does not."""
        if self._reserved and run.holder not in {"", self._holder}:
            return self._now() - run.due_at / 1000 > self._jobs[run.job].lease_seconds
        return True

    def _take(self, run: Run) -> None:
        if run.job in self._active or len(self._active) >= self._settings.jobs_concurrency:
            return
        task = asyncio.create_task(self._attempt(run))
        self._active[run.job] = task
        task.add_done_callback(lambda _: self._done(run.job))

    def _done(self, job: str) -> None:
        del self._active[job]
        self.wake()

    async def _attempt(self, run: Run) -> None:
        """Run it if the lease of its job is free."""
        job = self._jobs[run.job]
        leadership = Leadership(self._store.leases, f"job:{job.name}", self._holder, job.lease_seconds)
        try:
            await leadership.once(lambda term: self._live(job, run.id, term))
        except CompanionError as problem:
            log.warning("a run is interrupted and goes on later", run=run.id, problem=str(problem))

    async def _live(self, job: Job, run_id: str, term: Term) -> None:
        before = await self._store.runs.get(run_id)
        run = await self._store.runs.begin(run_id, self._holder, term.lease.token, self._milliseconds())
        if before is None or run is None:
            return
        lost = before.state is RunState.RUNNING and not job.resumes
        if lost:
            await self._end(run, RunState.LOST, "its process died")
            return
        if before.started_at is None:
            self._metrics.jobs.late.labels(job.name).observe(max(0.0, self._now() - run.due_at / 1000))
        self._metrics.jobs.running.labels(job.name).set(1)
        log.info(
            "run", run=run.id, job=job.name, attempt=run.attempt, dry=run.dry, resumed=before.started_at is not None
        )
        try:
            run, state, problem = await self._work(job, run, term)
            await self._end(run, state, problem)
        finally:
            self._metrics.jobs.running.labels(job.name).set(0)

    async def _work(self, job: Job, run: Run, term: Term) -> tuple[Run, RunState, str | Exception]:
        """Do batches until there are none left, or until it has to end; return the run as it is then, its state and why."""
        cancelled = asyncio.Event()
        watching = asyncio.create_task(self._watch(run.id, cancelled))
        noted = float("-inf")
        batches = job.batches(Work(run, term, self._settings, self._store, self._now, self._metrics))
        try:
            async with contextlib.aclosing(batches):  # type: ignore[type-var]
                async for progress in batches:
                    self._metrics.jobs.rows.labels(job.name).inc(max(0, progress.done - run.progress.done))
                    run = replace(run, progress=progress, batches=run.batches + 1)
                    stopping = self._stopping and job.resumes
                    if stopping or cancelled.is_set() or time.monotonic() - noted >= _NOTE_SECONDS:
                        noted = time.monotonic()
                        if await self._note(run, term) or cancelled.is_set():
                            return run, RunState.CANCELLED, "somebody asked for it"
                    if stopping:
                        return run, RunState.WAITING, ""
            await self._note(run, term)
        except (Fenced, asyncio.CancelledError):
            raise
        except CompanionError as problem:
            return run, RunState.FAILED, problem
        except Exception as problem:  # noqa: BLE001 - the one place where whatever went wrong becomes the end of a run
            log.error("a job failed", run=run.id, job=job.name, problem=told(problem))
            return run, RunState.FAILED, told(problem)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return run, RunState.DONE, ""

    async def _note(self, run: Run, term: Term) -> bool:
        """Note how far it has come, as soon as the store answers; return whether it was asked to end."""
        pause, longest = _PAUSE
        while term.valid:
            try:
                return await self._store.runs.advance(
                    run.id, run.fence, run.progress, run.batches, self._milliseconds()
                )
            except Transient:
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)
        raise Fenced(f"run {run.id}: the lease ran out")

    async def _watch(self, run_id: str, cancelled: asyncio.Event) -> None:
        """Notice between two batches that somebody asked for the end."""
        while True:
            await asyncio.sleep(_CANCEL_SECONDS)
            with contextlib.suppress(CompanionError):
                run = await self._store.runs.get(run_id)
                if run is None or run.cancelling:
                    cancelled.set()

    async def _end(self, run: Run, state: RunState, why: str | Exception) -> None:
        now, error = self._milliseconds(), str(why)
        await self._store.runs.end(run.id, run.fence, state, error, now)
        counts: dict[str, Any] = dict(run.progress.counts)
        log.info("run ended", run=run.id, job=run.job, state=state.value, error=error, **counts)
        if state is RunState.WAITING:
            return
        self._metrics.jobs.runs.labels(run.job, state.value).inc()
        self._metrics.jobs.seconds.labels(run.job).observe((now - (run.started_at or now)) / 1000)
        if state is RunState.DONE and not run.dry:
            self._metrics.jobs.success.labels(run.job).set(now / 1000)
        schedule = self._schedules[run.job]
        # What was asked for wrongly stays wrong.
        if state is RunState.FAILED and run.attempt < schedule.attempts and not isinstance(why, Invalid):
            await self._store.runs.add(retry_of(run, now, schedule.wait(run.attempt)))

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)
