"""The circuit breaker, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from companion.breaker import Breaker
from companion.core.errors import Invalid, Transient

FIRST, LONGEST = 1.0, 8.0


@dataclass(slots=True)
class Away:
    """A store that is away until `here` is set, and counts who asks."""

    here: bool = False
    asked: int = 0
    now: float = 100.0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self) -> str:
        self.asked += 1
        if not self.here:
            raise Transient("nobody answers")
        return "answer"

    def clock(self) -> float:
        return self.now


@pytest.fixture
def away() -> Away:
    return Away()


@pytest.fixture
def breaker(away: Away) -> Breaker:
    return Breaker("the store", failures=3, pause=(FIRST, LONGEST), clock=away.clock)


async def fail(breaker: Breaker, away: Away, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(Transient):
            await breaker.call(away.work)


async def test_closed_it_is_not_there(breaker: Breaker, away: Away) -> None:
    """While the store answers every call passes."""
    away.here = True
    assert [await breaker.call(away.work) for _ in range(5)] == ["answer"] * 5
    assert (breaker.open, breaker.problem) == (False, None)


async def test_it_opens_and_refuses_at_once(breaker: Breaker, away: Away) -> None:
    """After three failures nobody is asked any more, and the refusal names the store and the last problem."""
    await fail(breaker, away, 3)
    assert (breaker.open, away.asked) == (True, 3)
    with pytest.raises(Transient, match="the store is away: nobody answers"):
        await breaker.call(away.work)
    assert away.asked == 3


async def test_failures_must_be_in_a_row(breaker: Breaker, away: Away) -> None:
    """A success in between forgets those before it."""
    await fail(breaker, away, 2)
    away.here = True
    await breaker.call(away.work)
    away.here = False
    await fail(breaker, away, 2)
    assert not breaker.open


async def test_one_tries_and_finds_it_back(breaker: Breaker, away: Away) -> None:
    """After the pause one call is let through while others are still refused; its success lets everybody pass."""
    await fail(breaker, away, 3)
    away.now += FIRST * 1.25 + 0.01

    async def slow() -> str:
        await away.gate.wait()
        return "answer"

    probe = asyncio.ensure_future(breaker.call(slow))
    await asyncio.sleep(0)
    await fail(breaker, away)
    assert away.asked == 3
    away.gate.set()
    assert await probe == "answer"
    away.here = True
    assert await breaker.call(away.work) == "answer"
    assert (breaker.open, breaker.problem) == (False, None)


async def test_pauses_grow_to_the_longest_and_begin_anew(breaker: Breaker, away: Away) -> None:
    """Every try in vain doubles the pause; nobody is asked before its end; a success forgets how long it was."""
    await fail(breaker, away, 3)
    for pause in (FIRST, 2 * FIRST, 4 * FIRST, LONGEST, LONGEST):
        asked = away.asked
        away.now += pause * 0.99
        await fail(breaker, away)
        assert away.asked == asked
        away.now += pause * 0.27
        await fail(breaker, away)
        assert away.asked == asked + 1
    away.here = True
    away.now += LONGEST * 1.26
    await breaker.call(away.work)
    away.here = False
    await fail(breaker, away, 3)
    away.now += FIRST * 1.26
    asked = away.asked
    await fail(breaker, away)
    assert away.asked == asked + 1


async def test_a_refusal_is_an_answer(breaker: Breaker, away: Away) -> None:
    """An error that is not about being away shows that the store is there."""

    async def refuse() -> None:
        raise Invalid("field", "value", "something else")

    await fail(breaker, away, 2)
    with pytest.raises(Invalid):
        await breaker.call(refuse)
    assert breaker.problem is None
    await fail(breaker, away, 2)
    assert not breaker.open


async def test_a_probe_that_is_cancelled_lets_the_next_try(breaker: Breaker, away: Away) -> None:
    """Who gives up waiting tells nothing about the store, and keeps nobody else from trying."""
    await fail(breaker, away, 3)
    away.now += FIRST * 1.26
    probe = asyncio.ensure_future(breaker.call(away.gate.wait))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert breaker.open
    away.here = True
    assert await breaker.call(away.work) == "answer"


async def test_stragglers_do_not_put_off_the_try(breaker: Breaker, away: Away) -> None:
    """Calls that were on their way when it opened and fail later do not make the pause longer."""

    async def late() -> None:
        await away.gate.wait()
        raise Transient("late")

    stragglers = [asyncio.ensure_future(breaker.call(late)) for _ in range(5)]
    await asyncio.sleep(0)
    await fail(breaker, away, 3)
    away.now += FIRST * 1.26
    away.gate.set()
    await asyncio.gather(*stragglers, return_exceptions=True)
    away.here = True
    assert await breaker.call(away.work) == "answer"
