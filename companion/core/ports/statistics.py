"""Counters of changes, and where the changes come from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from companion.core.stats import Calendar, Fact, Increments, Stat


@dataclass(frozen=True, slots=True)
class Seen:
    """What is to be counted, with its position; without a fact, only the news that its reader has come this far."""

    position: str
    fact: Fact | None


class Observed(Protocol):
    """Where changes come from to be counted. It belongs to one observer, who keeps the position with the counters.

    The order of calls is `open`, then `read` again and again, then `close`; after `close` it can be opened again.
    """

    @property
    def name(self) -> str:
        """The name of its position, and a label of metrics."""
        ...

    @property
    def lost(self) -> int:
        """How many changes could not be seen or read since the process began, as far as anybody can tell."""
        ...

    async def open(self, position: str | None) -> str | None:
        """Go behind this position; return the one to be kept before anything is read, where it has to be another."""
        ...

    async def read(self, limit: int) -> Sequence[Seen]:
        """Return up to `limit` behind those already read; with nothing new, wait (at most a second) and return none."""
        ...

    async def settled(self, position: str) -> None:
        """Note that all up to this position is counted for good: what was kept only to be counted may go."""
        ...

    async def close(self) -> None:
        """Let go of what reading holds; no error when it is closed."""
        ...


class Statistics(Protocol):
    """Counters, and how far each reader of changes has come: they move together, or not at all.

    There is one observer, whose lease's token is the `fence`. It numbers its steps from 1 after `claim`. After `Transient` nobody
    knows whether a step was made: the same call is repeated, and a step that was made already is not made twice. Any call raises
    `Fenced` when a later observer has been here, or when the store has gone back behind what it acknowledged; only another claim,
    under a new lease, goes on.
    """

    async def claim(self, fence: int) -> Mapping[str, str]:
        """Begin, and return the position of every reader. Raises `Fenced` unless the fence is higher than all before it."""
        ...

    async def apply(self, fence: int, step: int, reader: str, position: str, added: Increments) -> int:
        """Add to the counters and move the reader there; return how many counters wait to be flushed."""
        ...

    async def flush(self, fence: int, step: int) -> int:
        """Bring what was counted to where it is read; return how many counters that were."""
        ...

    async def positions(self) -> Mapping[str, str]:
        """Return how far each reader has come of what cannot get lost any more."""
        ...

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
        """Return the records that touch these days, flushed ones, in the order of key, flag and time.

        Of every key and flag where none is given; the flag "" is the owner's own.
        """
        ...
