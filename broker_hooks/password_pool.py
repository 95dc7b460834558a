"""Threads that check passwords: a fixed number, a bounded queue in front of them, and nothing done for those who have gone.

The queue is the event loop's, not the threads': whoever gives up, or hangs up, leaves it at once and makes room. A check that has
begun is finished whatever happens, because its outcome is worth remembering: under a load that is too much for the machine those
who wait in vain would else use it up, and nobody would get in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import TypeVar

from broker_hooks.hashing import verify
from companion.core.errors import Transient
from companion.core.password_hashes import PasswordHash
from companion.metrics import Metrics

T = TypeVar("T")


class Overloaded(Transient):
    """More passwords are waiting to be checked than could be checked in time."""


class Abandoned(Transient):
    """Nobody waits for the check any more, so it was not begun."""


class Interest:
    """Whether somebody still waits for what a task has checked; the task makes it known by `of_this_task`."""

    def __init__(self) -> None:
        self.lost = False
        self.waiting: asyncio.Future[None] | None = None

    def of_this_task(self) -> None:
        """Have the pool ask us about whatever this task wants to have checked."""
        _interest.set(self)

    def lose(self) -> None:
        """Nobody waits: leave the queue, and begin nothing."""
        self.lost = True
        if self.waiting is not None:
            self.waiting.cancel()


_interest: ContextVar[Interest | None] = ContextVar("interest", default=None)


class PasswordPool:
    """Checks at most `workers` passwords at once while at most `waiting` wait, none of them for longer than `deadline` (seconds).

    What takes long releases the GIL.
    """

    def __init__(self, workers: int, waiting: int, deadline: float, metrics: Metrics) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="password")
        self._free = workers
        self._most = waiting
        self._deadline = deadline
        self._queue: deque[asyncio.Future[None]] = deque()
        metrics.logins.running.set_function(lambda: workers - self._free + len(self._queue))

    async def matches(self, password: bytes, password_hash: PasswordHash) -> bool:
        """Tell whether the password belongs to the hash.

        Raises `Overloaded` when the queue is full or no thread is free in time, `Abandoned` when nobody waits any more,
        `ValueError` for a hash that bcrypt refuses.
        """
        return await self.run(verify, password, password_hash)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Return what `work` returns, done by a thread. Raises what it raises, `Overloaded` and `Abandoned`."""
        interest = _interest.get()
        if interest is not None and interest.lost:
            raise Abandoned("nobody waits any more")
        if self._free:
            self._free -= 1
        elif len(self._queue) >= self._most:
            raise Overloaded("too many passwords wait to be checked")
        else:
            await self._turn(interest)
        try:
            future: Future[T] = self._executor.submit(work, *arguments)
        except BaseException:
            self._pass_on()
            raise
        # The thread is taken until it is done, also when nobody waits any more: that is what the bound is about.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _on_loop(loop, self._pass_on))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Begin nothing more, and let the threads end."""
        for waiting in self._queue:
            waiting.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def _turn(self, interest: Interest | None) -> None:
        """Wait until a thread is handed over."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        if interest is not None:
            interest.waiting = turn
        try:
            async with asyncio.timeout(self._deadline):
                await turn
        except BaseException as problem:
            if turn.done() and not turn.cancelled():
                # It was handed over in the very moment in which we gave up.
                self._pass_on()
            else:
                with contextlib.suppress(ValueError):  # whoever handed on has passed it over
                    self._queue.remove(turn)
            if isinstance(problem, TimeoutError):
                raise Overloaded("no thread was free in time to check the password") from None
            if interest is not None and interest.lost and isinstance(problem, asyncio.CancelledError):
                raise Abandoned("nobody waits any more") from None
            raise
        finally:
            if interest is not None:
                interest.waiting = None

    def _pass_on(self) -> None:
        """Hand a thread to who has waited longest."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    # A thread may end after the loop did.
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
