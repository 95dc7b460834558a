"""The flow of changes of a run: lanes that are brought side by side, each on its way, never far ahead of what is settled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from tests.faults.books import Books
from tests.faults.poster import Poster, Way
from tests.faults.service import Service
from tests.faults.workload import Lane
from tests.faults.writer import Writer
from tests.support.waiting import wait_until

PATIENCE: Final = 90.0

_LEAD: Final = 1000
"""How many changes, at most a tenth of all, may be taken and not settled: posters go on through the whole run, always ahead."""

_AHEAD: Final = 0.1
"""By how much of its changes, but for a batch, a lane may be ahead of the slowest: all ways are in use through the whole run."""

_LOOK_SECONDS: Final = 0.02
_REST_SECONDS: Final = 0.3


class Flow:
    """Brings the lanes: all are posted, or half of them are written to MongoDB where there is a `writer`."""

    def __init__(
        self, service: Service, books: Books, poster: Poster, writer: Writer | None, lanes: Sequence[Lane]
    ) -> None:
        self.planned = sum(len(lane) for lane in lanes)
        self.settled = 0
        self.poster = poster
        self.writer = writer
        self._service = service
        self._books = books
        self._lanes = lanes
        self._ways: Sequence[Way] = [
            poster if writer is None or index < len(lanes) // 2 else writer for index in range(len(lanes))
        ]
        self._brought = [0.0] * len(lanes)
        self._lead = min(_LEAD, self.planned // 10)

    @property
    def taken(self) -> int:
        """How many changes were acknowledged to whoever brought them."""
        return len(self.poster.taken) + (len(self.writer.taken) if self.writer else 0)

    @property
    def repeated(self) -> int:
        """How often something had to be brought again."""
        return self.poster.repeated + (self.writer.repeated if self.writer else 0)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Bring everything while the block runs, no longer."""
        works = [self._look(), *map(self._bring, range(len(self._lanes)))]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
            yield
            for task in tasks:
                task.cancel()

    async def reach(self, share: float) -> None:
        """Return when this share of the changes is settled, and others wait; for a share of 1, when all are."""
        goal = share * self.planned

        def reached() -> bool:
            return self.settled >= goal and (share >= 1 or self.taken > self.settled)

        await wait_until(reached, PATIENCE, f"{goal:g} changes are settled")

    async def rest(self) -> None:
        """Return when nothing moves any more and changes wait, as it is before a broker that stands still; or all are taken."""
        before = None
        async with asyncio.timeout(PATIENCE):
            while (now := (self.taken, self.settled)) != before or not self._enough_waits():
                before = now
                await asyncio.sleep(_REST_SECONDS)

    def _enough_waits(self) -> bool:
        return self.taken - self.settled >= self._lead / 2 or self.taken == self.planned

    async def end(self) -> None:
        """Return when everything is taken and settled."""
        await wait_until(lambda: self.taken == self.planned, PATIENCE, "everything is taken")
        await self.reach(1)

    async def _bring(self, index: int) -> None:
        """Bring the changes of a lane in their order."""
        lane, way = self._lanes[index], self._ways[index]
        for start in range(0, len(lane), way.batch):
            while not self._admitted(index):  # noqa: ASYNC110 - `settled` is asked for, nobody tells
                await asyncio.sleep(_LOOK_SECONDS)
            await way.post(lane[start : start + way.batch])
            self._brought[index] = (start + way.batch) / len(lane)

    def _admitted(self, index: int) -> bool:
        """Tell whether the next batch of this lane may go."""
        return self.taken - self.settled < self._lead and self._brought[index] <= min(self._brought) + _AHEAD

    async def _look(self) -> None:
        """Keep `settled` current while the service runs; a file that a crash left behind is the service's to recover."""
        while True:
            if self._service.up and (settled := await self._books.settled()) is not None:
                self.settled = settled
            await asyncio.sleep(_LOOK_SECONDS)
