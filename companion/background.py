"""How coroutines run: a program on its event loop, and work that goes on beside a block and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import uvloop

T = TypeVar("T")

_COLLECT_AFTER: Final = (10_000, 20, 20)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a program's coroutine to its end, on uvloop."""
    # What a service remembers lives long and hangs in no cycles. To look for those as often as Python does takes a tenth of the
    # time of an answer, and a look at everything holds up all that are waiting.
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@contextlib.asynccontextmanager
async def background(
    *works: Coroutine[Any, Any, None], finish: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[None]:
    """Run `works` while the block runs; at its end await `finish`, if given, then cancel what still runs.

    A work that fails ends the block too: its error leaves as an `ExceptionGroup`. Nothing dies unnoticed. An error of the block
    itself, and the closing of a generator that the block stands in, leave as they are.
    """
    failure: Exception | GeneratorExit | None = None
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        try:
            yield
        except (Exception, GeneratorExit) as problem:  # noqa: BLE001 - raised again below; inside, the group would wrap it
            failure = problem
        finally:
            if finish is not None:
                await finish()
            for task in tasks:
                task.cancel()
    if failure is not None:
        raise failure
