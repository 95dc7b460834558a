"""The port `Leases`."""

from __future__ import annotations

import asyncio
import time

from companion.core.ports import Held, Lease, Store
from tests.support.adapters import Open
from tests.support.entities import HOSTILE
from tests.support.eventually import eventually

PORTS = {"leases"}

LONG = 60.0
SHORT = 0.3


async def take(store: Store, holder: str = "a", seconds: float = LONG, name: str = "work") -> Lease:
    """Acquire a lease that must be free."""
    lease = await store.leases.acquire(name, holder, seconds)
    assert isinstance(lease, Lease), lease
    assert (lease.name, lease.holder) == (name, holder)
    return lease


async def test_one_holder(store: Store, other: Store) -> None:
    """Who comes second is told who has it and for how long."""
    await take(store, "a")
    held = await other.leases.acquire("work", "b", LONG)
    assert isinstance(held, Held)
    assert held.holder == "a"
    assert LONG - 10 < held.seconds <= LONG


async def test_one_of_many_at_once(store: Store, other: Store) -> None:
    """Of twenty who ask at the same time, one gets it."""
    asking = [(store if number % 2 else other).leases.acquire("work", f"h{number}", LONG) for number in range(20)]
    answers = await asyncio.gather(*asking)
    assert sum(isinstance(answer, Lease) for answer in answers) == 1


async def test_every_lease_has_a_higher_token(store: Store, other: Store) -> None:
    """Given back, run out or asked for again by its holder: the next token is higher, also when it all happens at once."""
    tokens = []
    for number in range(20):
        lease = await take((store, other)[number % 2], f"h{number % 3}")
        tokens.append(lease.token)
        await store.leases.release(lease)
    tokens += [(await take(store, "same")).token, (await take(store, "same")).token]
    assert tokens == sorted(set(tokens))


async def test_it_runs_out(store: Store, other: Store) -> None:
    """A lease that is not renewed is free after its time, and its old holder can neither renew nor harm it."""
    old = await take(store, "a", SHORT)
    held = await other.leases.acquire("work", "b", LONG)
    assert isinstance(held, Held)
    begun = time.monotonic()

    async def taken() -> Lease | None:
        answer = await other.leases.acquire("work", "b", LONG)
        return answer if isinstance(answer, Lease) else None

    new = await eventually(taken, what="the lease ran out")
    assert time.monotonic() - begun < 5
    assert new.token > old.token
    assert await store.leases.renew(old, LONG) is False
    await store.leases.release(old)
    assert await other.leases.renew(new, LONG) is True
    assert isinstance(await store.leases.acquire("work", "a", LONG), Held)


async def test_one_that_ran_out_is_not_renewed(store: Store) -> None:
    """Also when nobody else took it meanwhile: somebody may have, and given it back."""
    lease = await take(store, "a", 0.05)
    await asyncio.sleep(0.2)
    assert await store.leases.renew(lease, LONG) is False


async def test_renewing(store: Store, other: Store) -> None:
    """A renewed lease lasts from now on, and keeps others out; its token stays what it is."""
    lease = await take(store, "a", SHORT)
    for _ in range(6):
        await asyncio.sleep(SHORT / 3)
        assert await store.leases.renew(lease, SHORT) is True
        assert isinstance(await other.leases.acquire("work", "b", LONG), Held)
    assert await other.leases.renew(lease, LONG) is True
    held = await other.leases.acquire("work", "b", LONG)
    assert isinstance(held, Held)
    assert held.seconds > LONG - 10


async def test_giving_back(store: Store, other: Store) -> None:
    """A lease given back is free at once; giving back twice, or what was never there, is no error."""
    lease = await take(store, "a")
    await store.leases.release(lease)
    await store.leases.release(lease)
    await store.leases.release(Lease("never", "a", 1))
    newer = await take(other, "b")
    await store.leases.release(lease)
    assert await other.leases.renew(newer, LONG) is True
    assert await store.leases.renew(lease, LONG) is False


async def test_names_are_their_own(store: Store) -> None:
    """Leases whose names look alike do not keep each other out, and holders may be called anything."""
    for name in HOSTILE:
        await take(store, name, name=name)
    for name in HOSTILE:
        held = await store.leases.acquire(name, "somebody else", LONG)
        assert isinstance(held, Held)
        assert held.holder == name


async def test_reopening(open_store: Open) -> None:
    """A lease outlives the store that took it, and so does the memory of its token."""
    async with open_store() as store:
        kept = await take(store, "a")
        gone = await take(store, "a", name="other work")
        await store.leases.release(gone)
    async with open_store() as store:
        assert isinstance(await store.leases.acquire("work", "b", LONG), Held)
        assert await store.leases.renew(kept, LONG) is True
        assert (await take(store, "b", name="other work")).token > gone.token
