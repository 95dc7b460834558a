"""A circuit breaker: a store that is away is not asked again and again by everybody, and is asked by one who finds it back."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from companion.core.errors import Transient

T = TypeVar("T")

_JITTER: Final = 0.25


class Breaker:
    """Closed: calls pass. After `failures` in a row that say `Transient` it opens: calls are refused at once, with the same error.

    After a pause one call may try (half-open) while all others go on being refused; if it succeeds the breaker closes, else it
    stays open for a longer pause. `pause` is the first and the longest, in seconds, each lengthened at random by up to a quarter.
    Whatever is not `Transient` counts as an answer: the store is there.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 3,
        pause: tuple[float, float] = (0.5, 5.0),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.problem: str | None = None
        """Why the last call failed, in one line; None after one that was answered."""
        self._name = name
        self._most = failures
        self._pauses = pause
        self._clock = clock
        self._failures = 0
        self._pause = pause[0]
        self._until = 0.0
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether calls are refused, but for the one that tries."""
        return self._failures >= self._most

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work, or raise `Transient` without trying while the breaker is open."""
        probing = self.open
        if probing:
            if self._probing or self._clock() < self._until:
                raise Transient(f"{self._name} is away: {self.problem}")
            self._probing = True
        try:
            result = await work()
        except Transient as problem:
            self._failed(str(problem), probing=probing)
            raise
        except BaseException as problem:
            # An error is an answer; a cancelled call tells nothing.
            if isinstance(problem, Exception):
                self._answered()
            raise
        finally:
            if probing:
                self._probing = False
        self._answered()
        return result

    def _answered(self) -> None:
        self.problem = None
        self._failures = 0
        self._pause = self._pauses[0]

    def _failed(self, problem: str, *, probing: bool) -> None:
        self.problem = problem
        self._failures += 1
        if probing:
            self._pause = min(self._pause * 2, self._pauses[1])
        # Calls that were on their way when it opened do not put off the first try.
        if probing or self._failures == self._most:
            self._until = self._clock() + self._pause * (1 + _JITTER * random.random())  # noqa: S311 - spreads load
