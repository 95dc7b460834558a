"""The engine of the jobs when runs are interrupted: told to stop, killed, paused past the lease, without the store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from companion.core.errors import Transient
from companion.core.runs import RunState
from tests.support.engines import LEASE, Gate, House, Steps, at_work, house
from tests.support.eventually import eventually

__all__ = ["house"]


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
