"""The statistics of the production profile: counters in Redis between flushes, records in MongoDB.

    apply ──▶ live counters and positions, one script        ┐
    flush ──▶ 1. freeze: live becomes frozen, with a number   │ Redis
              2. add: records, number and positions together  │ MongoDB, one transaction
              3. drop: frozen is forgotten                    ┘ Redis

Why every change is counted exactly once, wherever a process dies:

* A change that was read counts when `apply` has been executed; then its reader's position is behind it. Both happen in one script
  or not at all, so a successor reads it again exactly if it was not counted.
* Whether a script was executed whose answer was lost is told by the step that it writes: made again under its number it does
  nothing. A script of a dead or suspended observer that arrives late bears an old fence and does nothing.
* Dying before 1 leaves all in live. Between 1 and 2 the next flush finds frozen and begins with it; nothing is frozen beside it.
  Between 2 and 3 the next flush adds it again: MongoDB has that number already and adds nothing. Numbers grow for ever.
* Two processes that flush the same frozen counters meet in MongoDB, where one of them wins; `drop` names the number.
* A Redis that comes back without what it acknowledged (everything, or the last second) has not the step before the observer's next,
  so the observer begins anew, under a new lease. If MongoDB knows a later flush than Redis, Redis is older than it: all of it is
  thrown away and the readers go on from the positions of that flush. If not, what Redis has follows on that flush and is what it
  was. Either way counters and positions belong together. The change stream is read again from there; of the inbox, the counters
  lose what Redis lost.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from companion.core.stats import Calendar, Increments, Stat
from companion.stores.mongo.stats import MongoStats
from companion.stores.redis.stats import RedisTally


class BufferedStatistics:
    """The port `Statistics`."""

    def __init__(self, tally: RedisTally, stats: MongoStats) -> None:
        self._tally = tally
        self._stats = stats

    async def claim(self, fence: int) -> Mapping[str, str]:
        """Begin, and return the position of every reader."""
        kept, positions = await self._stats.reached()
        return await self._tally.claim(fence, kept, positions)

    async def apply(self, fence: int, step: int, reader: str, position: str, added: Increments) -> int:
        """Add to the counters and move the reader there, once; return how many counters wait."""
        return await self._tally.apply(fence, step, reader, position, added)

    async def flush(self, fence: int, step: int) -> int:
        """Bring the counters into MongoDB; those that an earlier flush left behind come first, alone."""
        await self._tally.freeze(fence, step)
        frozen = await self._tally.frozen()
        if frozen is None:
            return 0
        await self._stats.add(frozen.number, frozen.positions, frozen.added)
        await self._tally.drop(frozen.number)
        return len(frozen.added)

    async def positions(self) -> Mapping[str, str]:
        """Return how far each reader had come with the last flush."""
        return (await self._stats.reached())[1]

    async def read(
        self,
        owner: str,
        calendar: Calendar,
        first: dt.date,
        last: dt.date,
        *,
        key: str | None = None,
        flag: str | None = None,
    ) -> Sequence[Stat]:
        """Return the records that touch these days, in the order of key, flag and time."""
        return await self._stats.read(owner, calendar, first, last, key=key, flag=flag)
