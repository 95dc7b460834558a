"""A cancellation that a driver loses, or that comes while it writes, ends the task all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from companion.stores.cancelling import cancellable
from companion.stores.mongo import MongoConfig, open_mongo
from tests.support.mongo import shared_url


async def swallowing(then: Awaitable[str]) -> str:
    """Lose a cancellation, as `asyncio.wait_for` did before Python 3.12."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return await then
    raise AssertionError("nobody cancelled")


async def answer() -> str:
    return "answer"


async def failure() -> str:
    raise ConnectionError


@pytest.mark.parametrize("then", [answer, failure])
async def test_a_cancellation_is_not_lost(then: Callable[[], Awaitable[str]]) -> None:
    """Whether the driver then returns something or fails, the task is cancelled."""
    task = asyncio.ensure_future(cancellable(swallowing(then())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_deadline_is_not_lost() -> None:
    """A deadline around it passes as one."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await cancellable(swallowing(answer()))


async def test_nobody_cancels() -> None:
    """Without a cancellation it is not there."""
    assert await cancellable(answer()) == "answer"
    with pytest.raises(ConnectionError):
        await cancellable(failure())


async def test_a_task_that_asks_mongodb_for_ever_ends() -> None:
    """Cancelled at whatever moment of a command, it ends."""
    async with open_mongo(MongoConfig(shared_url(), "cancelling", 5.0)) as client:

        async def ask_for_ever() -> None:
            while True:
                await client.call(lambda: client.database.command("ping"))

        for turns in range(150):
            # The driver drops a connection that was cancelled in use, and leaves one open that is cancelled while it is made.
            await client.call(lambda: client.database.command("ping"))
            task = asyncio.ensure_future(ask_for_ever())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=5)
            assert done, f"it goes on after {turns} turns of the loop"
