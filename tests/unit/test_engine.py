"""The engine of the jobs, over a real store: one run at a time, in order, tried again when it fails, cancelled when asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from companion.core.errors import Invalid, Transient
from companion.core.runs import Progress, RunState
from companion.job_settings import JobSettings
from maintenance.records import tick_of
from tests.support.engines import Gate, House, Steps, at_work, house
from tests.support.eventually import eventually

__all__ = ["house"]


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
