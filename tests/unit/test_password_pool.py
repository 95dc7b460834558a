"""The pool: how many passwords are checked at once, who waits, and what is not done for those who have gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from broker_hooks.password_pool import Abandoned, Interest, Overloaded, PasswordPool
from companion.metrics import Metrics
from tests.support.waiting import wait_until

WORKERS, WAITING = 2, 3


@dataclass
class Bench:
    """A pool, and work for it that lasts until it is let go."""

    pool: PasswordPool
    metrics: Metrics
    gate: threading.Event = field(default_factory=threading.Event)
    begun: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)

    def work(self, number: int) -> int:
        self.begun.append(number)
        assert self.gate.wait(30)
        self.done.append(number)
        return number

    def begin(self, number: int) -> asyncio.Task[int]:
        return asyncio.ensure_future(self.pool.run(self.work, number))

    @property
    def busy(self) -> float:
        return self.metrics.registry.get_sample_value("companion_password_checks") or 0.0


def bench_of(deadline: float) -> Bench:
    metrics = Metrics()
    return Bench(PasswordPool(WORKERS, WAITING, deadline, metrics), metrics)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = bench_of(30.0)
    yield made
    made.gate.set()
    await asyncio.to_thread(made.pool.close)


async def test_in_order(bench: Bench) -> None:
    """All are done, as many at once as there are threads; who waits longest is next; then the threads are free again."""
    tasks = [bench.begin(number) for number in range(WORKERS + WAITING)]
    await wait_until(lambda: len(bench.begun) == WORKERS, 20, "the first have begun")
    assert bench.busy == WORKERS + WAITING
    bench.gate.set()
    assert await asyncio.gather(*tasks) == list(range(WORKERS + WAITING))
    assert set(bench.begun[:WORKERS]) == set(range(WORKERS))
    await wait_until(lambda: bench.busy == 0, 20, "the threads are free")
    assert await bench.begin(9) == 9


async def test_what_goes_wrong_is_told(bench: Bench) -> None:
    """An error of the work is whoever's asked, and costs no thread."""
    bench.gate.set()
    for _ in range(2 * WORKERS):
        with pytest.raises(ZeroDivisionError):
            await bench.pool.run(lambda: 1 // 0)
    assert await bench.begin(1) == 1


async def test_more_than_can_wait(bench: Bench) -> None:
    """Who comes when the queue is full is told at once."""
    tasks = [bench.begin(number) for number in range(WORKERS + WAITING)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await bench.begin(99)
    bench.gate.set()
    await asyncio.gather(*tasks)
    assert 99 not in bench.done


async def test_nobody_waits_for_ever() -> None:
    """Who waits for a thread until the deadline is told, and makes room; nothing is done for them later."""
    bench = bench_of(0.1)
    tasks = [bench.begin(number) for number in range(WORKERS + WAITING)]
    outcomes = await asyncio.gather(*tasks[WORKERS:], return_exceptions=True)
    assert [type(one) for one in outcomes] == [Overloaded] * WAITING
    assert bench.busy == WORKERS
    bench.gate.set()
    assert await asyncio.gather(*tasks[:WORKERS]) == list(range(WORKERS))
    await asyncio.to_thread(bench.pool.close)
    assert sorted(bench.done) == list(range(WORKERS))


async def test_who_hangs_up_leaves_the_queue(bench: Bench) -> None:
    """A cancelled wait makes room at once; a cancelled check keeps its thread until it is done."""
    tasks = [bench.begin(number) for number in range(WORKERS + WAITING)]
    await wait_until(lambda: len(bench.begun) == WORKERS, 20, "the first have begun")
    for number in (0, WORKERS):
        tasks[number].cancel()
    await asyncio.wait([tasks[0], tasks[WORKERS]])
    assert bench.busy == WORKERS + WAITING - 1
    bench.gate.set()
    rest = [task for number, task in enumerate(tasks) if number not in {0, WORKERS}]
    await asyncio.gather(*rest)
    await wait_until(lambda: sorted(bench.done) == [0, 1, 3, 4], 20, "all but the one that left are done")


async def test_lost_interest(bench: Bench) -> None:
    """What a task wanted checked is not begun once nobody waits for it, neither in the queue nor later."""
    interest = Interest()

    async def several() -> int:
        interest.of_this_task()
        return await bench.pool.run(bench.work, 7) + await bench.pool.run(bench.work, 8)

    tasks = [bench.begin(number) for number in range(WORKERS)]
    await asyncio.sleep(0.01)
    task = asyncio.ensure_future(several())
    await asyncio.sleep(0.01)
    interest.lose()
    with pytest.raises(Abandoned):
        await task
    with pytest.raises(Abandoned):
        await asyncio.ensure_future(several())
    bench.gate.set()
    await asyncio.gather(*tasks)
    assert sorted(bench.done) == list(range(WORKERS))
    interest.lost = False
    assert await asyncio.ensure_future(several()) == 15


async def test_a_thread_that_is_handed_over_too_late(bench: Bench) -> None:
    """Whoever gives up in the moment in which a thread is theirs passes it on: none is lost, however often that happens."""
    bench.gate.set()
    for _ in range(200):
        tasks = [bench.begin(number) for number in range(WORKERS + WAITING)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    await wait_until(lambda: bench.busy == 0, 20, "the threads are free")
    assert await asyncio.gather(*(bench.begin(number) for number in range(WORKERS + WAITING))) == [0, 1, 2, 3, 4]
