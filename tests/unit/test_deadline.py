"""The deadline that is only set up for what waits: to the work inside it is like any other."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from broker_hooks.deadline import within


async def test_work_that_waits_for_nothing() -> None:
    """What needs no time needs no timer: the result, or the error, comes at once."""

    async def work() -> str:
        return "done"

    async def fail() -> None:
        raise KeyError("x")

    assert await within(0.0, work()) == "done"
    with pytest.raises(KeyError):
        await within(0.0, fail())


async def test_work_that_waits() -> None:
    """Results and errors of what waits, once and again, on futures, tasks and threads, come through."""

    async def work() -> list[object]:
        await asyncio.sleep(0)
        found: list[object] = [await asyncio.to_thread(lambda: "thread")]
        found.append(await asyncio.create_task(asyncio.sleep(0, "task")))
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, "future")
        found.append(await future)
        try:
            await asyncio.to_thread(int, "no number")
        except ValueError:
            found.append("error")
        found += await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2))
        return found

    expected = ["thread", "task", "future", "error", 1, 2]
    assert await within(10, work()) == expected
    assert await asyncio.to_thread(uvloop.run, within(10, work())) == expected

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await within(10, fail())


async def test_work_that_waits_too_long() -> None:
    """It is cancelled, may clean up, and whoever waited is told."""
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")

    with pytest.raises(TimeoutError):
        await within(0.01, work())
    assert seen == ["cancelled", "cleaned up"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_deadline_inside() -> None:
    """A deadline of the work's own is told from the one around it."""

    async def work() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "mine"
        return "none"

    assert await within(10, work()) == "mine"


async def test_whoever_waits_is_cancelled() -> None:
    """A cancellation from outside reaches the work and stays a cancellation."""
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    task = asyncio.create_task(within(10, work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["ended"]
