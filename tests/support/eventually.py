"""Waiting for an answer that has to be asked for: the awaitable sibling of `waiting`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(ask: Callable[[], Awaitable[T | None]], seconds: float = 10.0, what: str = "") -> T:
    """Return the first answer that is neither None nor False; fail the test, naming `what`, after so many seconds."""
    deadline = time.monotonic() + seconds
    while (answer := await ask()) is None or answer is False:
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or ask}")
        await asyncio.sleep(0.01)
    return answer
