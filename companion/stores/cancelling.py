"""Being cancelled also where a driver loses the cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def cancellable(call: Awaitable[T]) -> T:
    """Await a driver's call, and be cancelled when somebody asked for that.

    redis-py writes with `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes as it ends (gh-86296): a
    task that reads for ever would never end, and a deadline would not be one.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        return await call
    finally:
        if task is not None and task.cancelling() > before:
            # Whatever came of the call, an error as well: whoever waits for our end is not to be told to try again.
            raise asyncio.CancelledError
