"""Being the only one: over the embedded store's leases, and over leases that fail when they are told to."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from companion import leadership
from companion.core.errors import Fenced, Transient
from companion.core.ports import Held, Lease, Leases
from companion.leadership import Leadership, Term
from companion.stores.embedded import EmbeddedStore
from tests.support.waiting import wait_until

SECONDS = 1.0


class Faulty:
    """Leases that can be away."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self.away = False
        self.hanging = False
        self.renewals = 0

    async def _fault(self) -> None:
        if self.away:
            raise Transient("away")
        if self.hanging:
            await asyncio.sleep(3600)

    async def acquire(self, name: str, holder: str, seconds: float) -> Lease | Held:
        await self._fault()
        return await self._leases.acquire(name, holder, seconds)

    async def renew(self, lease: Lease, seconds: float) -> bool:
        self.renewals += 1
        await self._fault()
        return await self._leases.renew(lease, seconds)

    async def release(self, lease: Lease) -> None:
        await self._fault()
        await self._leases.release(lease)


class Worker:
    """Notes its terms, and how many work at once over all workers of a test."""

    at_work = 0

    def __init__(self, leases: Leases, name: str) -> None:
        self.leadership = Leadership(leases, "work", name, SECONDS)
        self.terms: list[Term] = []
        self.fenced = False

    async def work(self, term: Term) -> None:
        self.terms.append(term)
        Worker.at_work += 1
        assert Worker.at_work == 1
        try:
            if self.fenced:
                raise Fenced("late")
            while not self.leadership.stopping:  # noqa: ASYNC110 - the work of a term looks now and then
                await asyncio.sleep(0.01)
        finally:
            Worker.at_work -= 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.leadership.run(self.work))
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def leases(tmp_path: Path) -> AsyncIterator[Faulty]:
    Worker.at_work = 0
    async with EmbeddedStore.open(tmp_path) as store:
        yield Faulty(store.leases)


async def test_the_lease_is_kept(leases: Faulty) -> None:
    """One term lasts for many times the lease, while a second worker stands by and says for whom."""
    one, two = Worker(leases, "one"), Worker(leases, "two")
    async with one.running():
        await wait_until(lambda: one.leadership.leading, 5, "one leads")
        async with two.running():
            await asyncio.sleep(3 * SECONDS)
            assert (len(one.terms), two.terms) == (1, [])
            assert two.leadership.status == "standby: one has the lease"


async def test_given_back_at_the_end(leases: Faulty) -> None:
    """A worker that is told to stop finishes, gives the lease back, and the next need not wait for it to run out."""
    one, two = Worker(leases, "one"), Worker(leases, "two")
    one.leadership = Leadership(leases, "work", "one", 60.0)
    two.leadership = Leadership(leases, "work", "two", SECONDS)
    async with one.running():
        await wait_until(lambda: bool(one.terms), 5, "one is at work")
        one.leadership.stop()
        await one.leadership.ended(5)
        assert not one.leadership.leading
        async with two.running():
            await wait_until(lambda: two.leadership.leading, 5, "two leads")
    assert two.terms[0].lease.token > one.terms[0].lease.token


async def test_stopping_in_standby(leases: Faulty) -> None:
    """Who waits for a lease and is told to stop returns at once."""
    one, two = Worker(leases, "one"), Worker(leases, "two")
    async with one.running(), two.running():
        await wait_until(lambda: one.leadership.leading or two.leadership.leading, 5, "somebody leads")
        waiting = two if one.leadership.leading else one
        waiting.leadership.stop()
        await waiting.leadership.ended(5)
        assert waiting.terms == []


@pytest.mark.parametrize("fault", ["away", "hanging"])
async def test_a_store_that_is_away_ends_the_term(leases: Faulty, fault: str) -> None:
    """Without renewal the work is cancelled before the lease can run out; when the store is back there is a new term."""
    one = Worker(leases, "one")
    async with one.running():
        await wait_until(lambda: bool(one.terms), 5, "one is at work")
        begun = time.monotonic()
        setattr(leases, fault, True)
        await wait_until(lambda: Worker.at_work == 0, 5, "the work has ended")
        assert time.monotonic() - begun < SECONDS
        assert not one.terms[0].valid
        setattr(leases, fault, False)
        await wait_until(lambda: len(one.terms) == 2, 10, "there is a new term")
        assert one.terms[1].lease.token > one.terms[0].lease.token


async def test_a_store_that_refuses_is_not_flooded(leases: Faulty, logged: io.StringIO) -> None:
    """What fails at once is tried again after a pause, also in the last moments of a lease, and told once."""
    one = Worker(leases, "one")
    async with one.running():
        await wait_until(lambda: one.leadership.leading, 5, "one leads")
        leases.away, before = True, leases.renewals
        await wait_until(lambda: Worker.at_work == 0, 5, "the work has ended")
        assert 2 <= leases.renewals - before <= 8
    assert logged.getvalue().count("the lease was not renewed") == 1


async def test_a_short_outage_costs_nothing(leases: Faulty) -> None:
    """One renewal in vain is made good by the next."""
    one = Worker(leases, "one")
    async with one.running():
        await wait_until(lambda: one.leadership.leading, 5, "one leads")
        leases.away = True
        await asyncio.sleep(SECONDS / 2)
        leases.away = False
        await asyncio.sleep(2 * SECONDS)
        assert len(one.terms) == 1


async def test_who_was_stopped_knows_at_once(leases: Faulty) -> None:
    """A process that was stopped past its lease sees that before it does anything else."""
    one = Worker(leases, "one")
    async with one.running():
        await wait_until(lambda: bool(one.terms), 5, "one is at work")
        validity = [one.terms[0].valid]
        time.sleep(SECONDS)  # noqa: ASYNC251 - the whole process stands still
        validity.append(one.terms[0].valid)
        assert validity == [True, False]
        await wait_until(lambda: len(one.terms) == 2, 10, "there is a new term")


async def test_a_lease_that_was_taken(leases: Faulty) -> None:
    """When the store says that the lease is another's, the work ends at once and waits for its turn."""
    one = Worker(leases, "one")
    async with one.running():
        await wait_until(lambda: bool(one.terms), 5, "one is at work")
        await leases.release(one.terms[0].lease)
        assert isinstance(await leases.acquire("work", "other", SECONDS), Lease)
        await wait_until(lambda: Worker.at_work == 0, 5, "the work has ended")
        await wait_until(lambda: len(one.terms) == 2, 10, "its turn came again")


async def test_who_has_lost_its_lease_says_so_at_once(leases: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leads no more as soon as its work has ended, and not only when the pause before its next turn is over."""
    monkeypatch.setattr(leadership, "_AWAY_SECONDS", (60.0, 60.0))
    one = Worker(leases, "one")
    async with one.running():
        await wait_until(lambda: bool(one.terms), 5, "one is at work")
        await leases.release(one.terms[0].lease)
        assert isinstance(await leases.acquire("work", "other", SECONDS), Lease)
        await wait_until(lambda: Worker.at_work == 0, 5, "the work has ended")
        await wait_until(lambda: not one.leadership.leading, 5, "one leads no more")
        assert one.leadership.status == "waiting"


async def test_fenced_work_begins_anew(leases: Faulty) -> None:
    """Work that finds itself fenced off is begun again under a new token, not at full speed."""
    one = Worker(leases, "one")
    one.fenced = True
    async with one.running():
        await wait_until(lambda: len(one.terms) == 3, 10, "there were three terms")
        assert len(one.terms) < 10
    tokens = [term.lease.token for term in one.terms]
    assert tokens == sorted(set(tokens))


async def test_an_error_of_the_work_leaves(leases: Faulty) -> None:
    """What is no matter of leases is not swallowed, and the lease is given back."""

    async def fail(_term: Term) -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await Leadership(leases, "work", "one", SECONDS).run(fail)
    assert isinstance(await leases.acquire("work", "other", SECONDS), Lease)
