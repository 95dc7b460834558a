"""Ticks of schedules at the engine of the jobs: who asks, who runs them, and which are left out."""

from __future__ import annotations

import asyncio
import time

from companion.core.runs import RunState
from maintenance.records import request_of, tick_of
from tests.support.engines import LEASE, House, Steps, at_work, house

__all__ = ["house"]


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
