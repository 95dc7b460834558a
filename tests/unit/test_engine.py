"""The engine of the jobs, over a real store: one run at a time, whatever happens to those who run."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from companion.background import background
from companion.core.errors import Invalid, Transient
from companion.core.runs import Progress, Run, RunState
from companion.job_settings import JobSettings
from companion.metrics import Metrics
from companion.stores.embedded import EmbeddedStore
from maintenance.engine import Engine
from maintenance.job import Work
from maintenance.records import request_of, tick_of
from tests.support.eventually import eventually
from tests.support.service import make_settings

LEASE = 0.6


@dataclass
class Steps:
    """A job of a few batches; a test may stop it, or let it fail, at one of them."""

    name: str = "steps"
    purpose: str = "counts"
    parameters: Mapping[str, str] = field(default_factory=lambda: {"steps": "how many"})
    schedule: JobSettings = field(default_factory=JobSettings)
    lease_seconds: float = LEASE
    resumes: bool = True
    steps: int = 3
    at: dict[int, Callable[[], Any]] = field(default_factory=dict)
    lives: list[tuple[str, int]] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0

    async def batches(self, work: Work) -> AsyncIterator[Progress]:
        self.lives.append((work.run.id, work.term.lease.token))
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            for step in range(int(work.run.progress.position or 0), int(work.run.parameters.get("steps", self.steps))):
                if step in self.at:
                    await self.at[step]()
                self.done.append(step)
                yield Progress(step + 1, self.steps, {"counted": step + 1}, str(step + 1))
        finally:
            self.busy -= 1


@dataclass
class House:
    """Engines over one store."""

    folder: Path
    store: EmbeddedStore
    schedules: dict[str, JobSettings]
    metrics: Metrics = field(default_factory=Metrics)

    def engine(self, *jobs: Steps, name: str = "one", **settings: Any) -> Engine:
        known = {job.name: job for job in jobs}
        return Engine(
            jobs=known,
            served=frozenset(known),
            schedules={job.name: self.schedules.get(job.name, job.schedule) for job in jobs},
            settings=make_settings(self.folder, **settings),
            store=self.store,
            metrics=self.metrics,
            holder=name,
        )

    async def ask(self, job: Steps, **parameters: Any) -> Run:
        run = request_of(job, parameters, int(time.time() * 1000))
        await self.store.runs.add(run)
        return run

    async def reaches(self, run_id: str, *states: RunState) -> Run:
        async def there() -> Run | None:
            run = await self.store.runs.get(run_id)
            return run if run is not None and run.state in states else None

        return await eventually(there, what=f"{run_id} is {states}")

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with EmbeddedStore.open(tmp_path) as store:
        yield House(tmp_path, store, {})


@contextlib.asynccontextmanager
async def at_work(*engines: Engine) -> AsyncIterator[None]:
    async def finish() -> None:
        await asyncio.gather(*(engine.finish(5) for engine in engines))

    async with background(*(engine.run() for engine in engines), finish=finish):
        yield


class Gate:
    """Holds a job at a batch until the test opens it."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()


async def test_a_run(house: House) -> None:
    """What was asked for is done, noted batch by batch, counted and measured."""
    job = Steps()
    async with at_work(house.engine(job)):
        run = await house.ask(job, steps=2)
        done = await house.reaches(run.id, RunState.DONE)
    assert (done.progress, done.batches, done.error) == (Progress(2, 3, {"counted": 2}, "2"), 2, "")
    assert done.holder == "one"
    assert done.started_at is not None
    assert done.ended_at is not None
    assert run.due_at <= done.started_at <= done.ended_at
    assert house.metric("companion_job_runs_total", job_name="steps", state="done") == 1
    assert house.metric("companion_job_rows_total", job_name="steps") == 2
    assert house.metric("companion_job_late_seconds_count", job_name="steps") == 1
    assert house.metric("companion_job_last_success_timestamp_seconds", job_name="steps") == done.ended_at / 1000


async def test_one_at_a_time(house: House) -> None:
    """Ten runs of one job over two engines: each is done once, never two at once; runs of two jobs go side by side."""
    job, other = Steps(), Steps("other")
    gate = Gate()
    other.at[1] = gate
    async with at_work(house.engine(job, other), house.engine(job, other, name="two")):
        held = await house.ask(other)
        runs = [await house.ask(job) for _ in range(10)]
        for run in runs:
            await house.reaches(run.id, RunState.DONE)
        assert gate.reached.is_set()
        gate.opened.set()
        await house.reaches(held.id, RunState.DONE)
    assert job.most_busy == 1
    assert len(job.lives) == 10
    tokens = [token for _, token in job.lives]
    assert tokens == sorted(set(tokens))


async def test_the_most_urgent_first(house: House) -> None:
    """People come before schedules, and who waits longest before the others."""
    job = Steps()
    now = int(time.time() * 1000)
    for due in (now - 1000, now - 3000):
        await house.store.runs.add(tick_of("steps", due, now))
    asked = await house.ask(job)
    async with at_work(house.engine(job)):
        for run in await house.store.runs.list():
            await house.reaches(run.id, RunState.DONE)
    order = [run_id for run_id, _ in job.lives]
    assert order == [asked.id, tick_of("steps", now - 3000, now).id, tick_of("steps", now - 1000, now).id]


@pytest.mark.parametrize(
    ("problem", "error"),
    [
        (Transient("s3 is away"), "s3 is away"),
        (RuntimeError("secret"), "RuntimeError"),
    ],
)
async def test_a_failure_is_tried_again(house: House, problem: Exception, error: str) -> None:
    """As often as its settings say, after a wait, as new runs; then it stays failed with its reason, and no secret."""
    job = Steps()

    async def fail() -> None:
        raise problem

    job.at[1] = fail
    house.schedules["steps"] = JobSettings(attempts=3, backoff=0.2, growth=2)
    async with at_work(house.engine(job)):
        run = await house.ask(job)
        last = await house.reaches(f"{run.id}~3", RunState.FAILED)
        await asyncio.sleep(0.5)
    runs = {one.id: one for one in await house.store.runs.list()}
    assert set(runs) == {run.id, f"{run.id}~2", f"{run.id}~3"}
    assert all(
        one.state is RunState.FAILED and error in one.error and "secret" not in one.error for one in runs.values()
    )
    assert [runs[one].attempt for one in (run.id, f"{run.id}~2", last.id)] == [1, 2, 3]
    first, second = runs[run.id], runs[f"{run.id}~2"]
    assert first.ended_at is not None
    assert second.due_at - first.ended_at == 200
    assert last.due_at - (second.ended_at or 0) == 400


async def test_what_was_asked_for_wrongly(house: House) -> None:
    """It fails with what is wrong, and is not tried again."""
    job = Steps()

    async def refuse() -> None:
        raise Invalid("parameters.steps", "x", "a number")

    job.at[0] = refuse
    house.schedules["steps"] = JobSettings(attempts=3, backoff=0)
    async with at_work(house.engine(job)):
        run = await house.ask(job)
        failed = await house.reaches(run.id, RunState.FAILED)
        await house.reaches((await house.ask(job)).id, RunState.FAILED)
    assert failed.error == "parameters.steps: 'x' is not allowed; a number"
    assert len(await house.store.runs.list()) == 2


async def test_cancelling(house: House) -> None:
    """A run ends between two batches, soon; one that waits does not begin."""
    job = Steps(steps=1000)

    async def slowly() -> None:
        await asyncio.sleep(0.02)

    job.at |= dict.fromkeys(range(1000), slowly)
    async with at_work(house.engine(job)):
        run = await house.ask(job, steps=1000)
        waits = await house.ask(job)
        await house.reaches(run.id, RunState.RUNNING)
        begun = time.monotonic()
        await house.store.runs.cancel(waits.id, 1)
        await house.store.runs.cancel(run.id, 1)
        cancelled = await house.reaches(run.id, RunState.CANCELLED)
        assert time.monotonic() - begun < 1
    assert 0 < cancelled.progress.done < 1000
    assert [run_id for run_id, _ in job.lives] == [run.id]


async def test_told_to_stop(house: House) -> None:
    """A run comes to the end of its batch, waits again, and goes on from there in the next process."""
    job, gate = Steps(), Gate()
    job.at[1] = gate
    async with at_work(house.engine(job)):
        run = await house.ask(job)
        await gate.reached.wait()
        asyncio.get_running_loop().call_later(0.1, gate.opened.set)
    stopped = await house.store.runs.get(run.id)
    assert stopped is not None
    assert (stopped.state, stopped.progress.position) == (RunState.WAITING, "2")
    async with at_work(house.engine(job, name="two")):
        done = await house.reaches(run.id, RunState.DONE)
    assert job.done == [0, 1, 2]
    assert done.batches == 3


@pytest.mark.parametrize("resumes", [True, False])
async def test_a_process_that_died(house: House, *, resumes: bool) -> None:
    """Its run is found when its lease has run out: it goes on where it was, or is lost where the job cannot."""
    job, gate = Steps(resumes=resumes), Gate()
    job.at[2] = gate
    dying = asyncio.create_task(house.engine(job).run())
    run = await house.ask(job)
    await gate.reached.wait()
    # As a killed process: nothing is put back, and the lease is not given back.
    lease = house.store.leases.release
    house.store.leases.release = _nothing  # type: ignore[method-assign, assignment]
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    house.store.leases.release = lease  # type: ignore[method-assign]
    assert (await house.reaches(run.id, RunState.RUNNING)).holder == "one"
    del job.at[2]
    async with at_work(house.engine(job, name="two")):
        ended = await house.reaches(run.id, RunState.DONE if resumes else RunState.LOST)
    assert ended.holder == "two"
    # What was done and not yet noted is done again.
    assert job.done == ([0, 1, 1, 2] if resumes else [0, 1])
    assert len({token for _, token in job.lives}) == (2 if resumes else 1)


async def _nothing(_: object) -> None:
    pass


async def test_a_lease_that_ran_out(house: House) -> None:
    """Who was stopped for longer than its lease writes nothing more, and the other one ends the run."""
    job, gate = Steps(), Gate()
    job.at[1] = gate
    run = await house.ask(job)
    engines = house.engine(job), house.engine(job, name="two")

    async def refused(*_: object) -> bool:
        return False

    async with at_work(engines[0]):
        await gate.reached.wait()
        renew = house.store.leases.renew
        house.store.leases.renew = refused  # type: ignore[method-assign, assignment]
        await asyncio.sleep(LEASE * 1.5)
        house.store.leases.renew = renew  # type: ignore[method-assign]
        del job.at[1]
        gate.opened.set()
        async with at_work(engines[1]):
            done = await house.reaches(run.id, RunState.DONE)
    assert done.progress.done == 3
    assert job.done[-2:] == [1, 2]


async def test_ticks(house: House) -> None:
    """Of two engines that tick at the same time, one asks; while one waits, later ones are skipped; late ones are given up."""
    job = Steps()
    one, two = house.engine(job), house.engine(job, name="two")
    due = int(time.time() * 1000)
    await asyncio.gather(*(engine.tick("steps", due) for engine in (one, two) for _ in range(5)))
    assert [run.id for run in await house.store.runs.list()] == [tick_of("steps", due, 0).id]
    await one.tick("steps", due + 1000)
    assert len(await house.store.runs.list()) == 1
    assert house.metric("companion_job_ticks_skipped_total", job_name="steps", why="coalesced") == 1
    await one.tick("steps", due - 3_601_000)
    assert len(await house.store.runs.list()) == 1
    assert house.metric("companion_job_ticks_skipped_total", job_name="steps", why="late") == 1
    async with at_work(one):
        await house.reaches(tick_of("steps", due, 0).id, RunState.DONE)


async def test_a_tick_from_before(house: House) -> None:
    """A tick that nobody saw is made good where the job has been run before; where it is new, it has missed nothing."""
    due = int(time.time() * 1000) - 1000
    await house.engine(Steps()).tick("steps", due)
    assert await house.store.runs.list() == []
    await house.store.runs.add(request_of(Steps(), {}, due))
    await house.engine(Steps()).tick("steps", due)
    assert tick_of("steps", due, 0).id in [run.id for run in await house.store.runs.list()]


async def test_who_runs_a_tick(house: House) -> None:
    """In-process, who asked for a tick runs it, another one only when it does not; from a queue anybody takes it."""
    job = Steps()
    absent = house.engine(job, name="absent")
    due = int(time.time() * 1000)
    await absent.tick("steps", due)
    async with at_work(house.engine(job, name="two")):
        begun = time.monotonic()
        assert (await house.reaches(tick_of("steps", due, 0).id, RunState.DONE)).holder == "two"
        assert time.monotonic() - begun > LEASE / 2
    await house.engine(job, name="absent", jobs_mode="queue").tick("steps", due + 1)
    waits = await house.store.runs.get(tick_of("steps", due + 1, 0).id)
    assert waits is not None
    assert waits.holder == ""
    async with at_work(house.engine(job, name="two", jobs_mode="queue")):
        assert (await house.reaches(waits.id, RunState.DONE)).holder == "two"


async def test_not_more_than_allowed_at_once(house: House) -> None:
    """The number of runs at once is bounded."""
    jobs = [Steps(f"job{number}") for number in range(4)]
    gates = [Gate() for _ in jobs]
    for job, gate in zip(jobs, gates, strict=True):
        job.at[0] = gate
    async with at_work(house.engine(*jobs, jobs_concurrency=2)):
        runs = [await house.ask(job) for job in jobs]
        await eventually(_at_least(gates, 2), what="two have begun")
        await asyncio.sleep(0.3)
        assert sum(gate.reached.is_set() for gate in gates) == 2
        for gate in gates:
            gate.opened.set()
        for run in runs:
            await house.reaches(run.id, RunState.DONE)


def _at_least(gates: list[Gate], count: int) -> Callable[[], Any]:
    async def reached() -> bool:
        return sum(gate.reached.is_set() for gate in gates) >= count

    return reached


async def test_while_the_store_is_away(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken, and that is said; what runs waits with its note; then everything goes on."""
    job = Steps()
    engine = house.engine(job)
    away = True
    real_waiting, real_advance = house.store.runs.waiting, house.store.runs.advance

    async def waiting(*args: Any) -> Any:
        if away:
            raise Transient("the store is away")
        return await real_waiting(*args)

    failures = iter([True, False, True, False, False])

    async def advance(*args: Any) -> bool:
        if next(failures):
            raise Transient("the store is away")
        return await real_advance(*args)

    monkeypatch.setattr(house.store.runs, "waiting", waiting)
    monkeypatch.setattr(house.store.runs, "advance", advance)
    async with at_work(engine):
        run = await house.ask(job)

        async def said() -> bool:
            return engine.problem == "the store is away"

        await eventually(said, what="the engine says so")
        away = False
        await house.reaches(run.id, RunState.DONE)
        assert engine.problem is None
    assert job.done == [0, 1, 2]
