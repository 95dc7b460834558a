"""A deadline that costs nothing where nothing waits."""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; cancel it and raise `TimeoutError` when it waits for longer than that.

    Most decisions are made from memory, in less time than `asyncio.timeout` takes to set up its timer. So `work` runs on its own
    until it has to wait for something, and only the rest of it is timed.
    """
    try:
        awaited = work.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    async with asyncio.timeout(seconds):
        return await _rest(work, awaited)


@types.coroutine
def _rest(work: Coroutine[Any, Any, T], awaited: object) -> Generator[Any, Any, T]:
    """Await a coroutine that has begun already and waits for `awaited`."""
    while True:
        try:
            step = functools.partial(work.send, (yield awaited))
        except BaseException as problem:  # noqa: BLE001 - a cancellation is for `work` like everything else
            step = functools.partial(work.throw, problem)
        try:
            awaited = step()
        except StopIteration as ended:
            result: T = ended.value
            return result
