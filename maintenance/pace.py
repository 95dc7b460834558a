"""How fast a job may go, and for how long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Pace:
    """At most `rate` a second on average (None: as fast as it goes), for `budget` seconds."""

    def __init__(self, rate: float | None, budget: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._began = clock()
        self._until = self._began + budget
        self._done = 0

    @property
    def over(self) -> bool:
        """Whether the time is used up."""
        return self._clock() >= self._until

    async def after(self, count: int) -> None:
        """Wait until so many more were not too fast; never for longer than a moment, so that the job can be stopped."""
        self._done += count
        if self._rate is not None:
            ahead = self._began + self._done / self._rate - self._clock()
            if ahead > 0:
                await asyncio.sleep(min(ahead, _MOMENT))

    @property
    def ahead(self) -> bool:
        """Whether to wait again before going on."""
        return self._rate is not None and self._began + self._done / self._rate > self._clock()


_MOMENT = 0.5
