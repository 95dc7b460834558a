"""Verified passwords: what is checked once for many who ask at the same time, and what becomes of it when they go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from broker_hooks.password_pool import Abandoned, Overloaded, PasswordPool
from broker_hooks.verified import Verdict
from companion.core.model import Deny
from companion.metrics import Metrics
from tests.support.clocks import Clock, clock
from tests.support.verified import ALICE, WRONG, Door, door
from tests.support.waiting import wait_until

__all__ = ["clock", "door"]


@pytest.mark.parametrize("verdict", [Verdict(), Verdict(WRONG)])
async def test_many_at_once(door: Door, verdict: Verdict) -> None:
    """Those who ask for the same at the same time get the outcome of one check, right or wrong."""
    door.verdict = verdict
    outcomes = await asyncio.gather(*(door.ask() for _ in range(50)), door.ask(password="other"))
    assert outcomes == [verdict.deny] * 51
    assert len(door.checked) == 2
    assert door.count("companion_credential_checks_total", "joined") == 49


async def test_an_error_is_everybodys_and_not_remembered(door: Door) -> None:
    """When the check fails, all who wait are told; the next one checks again."""

    async def failing() -> Verdict:
        await asyncio.sleep(0)
        raise Overloaded("too many")

    asking = [door.verified.refusal(ALICE, "alice", b"secret", failing, 0.0) for _ in range(3)]
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in outcomes] == [Overloaded] * 3
    assert await door.ask() is None


async def test_nobody_waits_beyond_the_deadline(clock: Clock) -> None:
    """Who waits too long is told so; the check goes on, and its outcome is there for the next."""
    door = Door(clock, deadline=0.05)
    gate = asyncio.Event()

    async def slow() -> Verdict:
        await gate.wait()
        return Verdict()

    with pytest.raises(Overloaded):
        await door.verified.refusal(ALICE, "alice", b"secret", slow, 0.0)
    gate.set()
    await asyncio.sleep(0.01)
    assert await door.ask() is None
    assert not door.checked


@pytest.fixture
async def pool() -> AsyncIterator[PasswordPool]:
    pool = PasswordPool(1, 10, 20.0, Metrics())
    yield pool
    await asyncio.to_thread(pool.close)


async def test_nothing_is_checked_for_who_has_gone(door: Door, pool: PasswordPool) -> None:
    """When all who asked hung up before the check began, it is not made; if one stays, it is."""
    done: list[str] = []

    def asking(password: str) -> asyncio.Task[Deny | None]:
        async def check() -> Verdict:
            await pool.run(done.append, password)
            return Verdict()

        return asyncio.ensure_future(door.verified.refusal(ALICE, "alice", password.encode(), check, 0.0))

    gate = threading.Event()
    busy = asyncio.ensure_future(pool.run(gate.wait))
    await asyncio.sleep(0)
    left: Sequence[asyncio.Task[Deny | None]] = [asking("left") for _ in range(3)]
    stayed = [asking("stayed") for _ in range(2)]
    await asyncio.sleep(0.05)
    for task in (*left, stayed[0]):
        task.cancel()
    await asyncio.wait([*left, stayed[0]])
    await wait_until(lambda: door.count("companion_credential_checks_total", "abandoned"), 20, "it is given up")
    gate.set()
    await busy
    assert await stayed[1] is None
    assert done == ["stayed"]
    # Who comes back begins anew.
    assert await asking("left") is None
    assert done == ["stayed", "left"]


async def test_closing(door: Door) -> None:
    """What is under way at the end is given up, and whoever waits is told."""

    async def never() -> Verdict:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    waiting = asyncio.ensure_future(door.verified.refusal(ALICE, "alice", b"secret", never, 0.0))
    await asyncio.sleep(0.01)
    await door.verified.close()
    with pytest.raises(Overloaded):
        await waiting


async def test_abandoned_is_no_verdict(door: Door) -> None:
    """A check that was given up leaves nothing behind."""

    async def given_up() -> Verdict:
        raise Abandoned("nobody waits")

    with pytest.raises(Abandoned):
        await door.verified.refusal(ALICE, "alice", b"secret", given_up, 0.0)
    assert await door.ask() is None
    assert len(door.checked) == 1
