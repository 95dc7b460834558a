"""The record of a resynchronisation, for people: a run of the job `resync`. Nothing depends on it."""

from __future__ import annotations

import time
from typing import Final

from companion.core.errors import Fenced
from companion.core.ports import Runs
from companion.core.runs import Progress, Run, RunState, Trigger
from companion.stores.mongo.place import Catch

JOB: Final = "resync"


class ResyncRecord:
    """Notes under `fence` what became of the resynchronisation `catch`; a process that takes over continues its record."""

    def __init__(self, runs: Runs, catch: Catch, fence: int, reason: str = "") -> None:
        self._runs = runs
        self._id = f"{JOB}:{catch.since}:{catch.until}"
        self._parameters = {"since": catch.since, "until": catch.until, "reason": reason}
        self._fence = fence
        self._found: int | None = None
        self._batches = 0

    async def found(self, changes: int) -> None:
        """Note that it found so many more; 0 says that it has begun."""
        if self._found is None:
            await self._begin()
        self._found = (self._found or 0) + changes
        self._batches += bool(changes)
        try:
            await self._runs.advance(self._id, self._fence, Progress(self._found), self._batches, _now())
        except Fenced:
            return

    async def ended(self) -> None:
        """Note that it is done."""
        if self._found is None:
            await self._begin()
        try:
            await self._runs.end(self._id, self._fence, RunState.DONE, "", _now())
        except Fenced:
            return

    async def _begin(self) -> None:
        now = _now()
        await self._runs.add(Run(self._id, JOB, Trigger.INCIDENT, now, now, self._parameters))
        try:
            known = await self._runs.begin(self._id, "publisher", self._fence, now)
        except Fenced:
            known = None
        self._found = 0
        if known is not None:
            self._found, self._batches = known.progress.done, known.batches


def _now() -> int:
    return int(time.time() * 1000)
