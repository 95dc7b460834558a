"""Changes to publish, and how far they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from companion.core.model import Change, Incident


@dataclass(frozen=True, slots=True)
class Received:
    """A change in the inbox with its position; positions grow by at least one and are never used again."""

    position: int
    change: Change


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a batch: how many changes are new, and how many were known by their event id."""

    accepted: int
    duplicates: int


class Inbox(Protocol):
    """Changes taken over from others, kept durably until they are published."""

    async def append(self, changes: Sequence[Change]) -> Taken:
        """Store all of them or none, in order, each event id once; durable (fsync) when this returns."""
        ...

    async def read(self, after: int, limit: int) -> Sequence[Received]:
        """Return up to `limit` changes behind the position `after`, in order, that are neither acknowledged nor dead."""
        ...

    async def acknowledge(self, acknowledged: Sequence[tuple[int, int]]) -> None:
        """Note for each (position, Unix milliseconds) that every message of the change was acknowledged, and when."""
        ...

    async def bury(self, position: int, reason: str) -> None:
        """Mark the change at `position` as dead: it could not be published, is kept, and says why."""
        ...

    async def dead(self, *, limit: int = 1000) -> Sequence[tuple[Received, str]]:
        """Return up to `limit` dead changes with their reasons, oldest first."""
        ...

    async def backlog(self, after: int) -> int:
        """Return how many changes behind the position `after` are neither acknowledged nor dead."""
        ...

    async def prune(self, *, through: int, before: int, limit: int, dry: bool = False) -> int:
        """Remove up to `limit` changes at or before position `through` that were taken before `before` (Unix milliseconds).

        Dead changes stay. Returns how many were removed; their event ids are forgotten with them. `dry` only counts them.
        """
        ...


class Checkpoints(Protocol):
    """How far a reader of changes has come: everything up to the position is acknowledged. Only its source understands it.

    `fence` is the token of the lease under which the reader works; the highest one seen for a name is the only one that may write.
    """

    async def load(self, name: str) -> str | None:
        """Return the position; None when nothing was saved."""
        ...

    async def claim(self, name: str, fence: int) -> str | None:
        """Return the position, and refuse lower fences from now on. Raises `Fenced` when a higher one has claimed it."""
        ...

    async def save(self, name: str, position: str, fence: int) -> None:
        """Store the position durably. Raises `Fenced` when a higher fence has claimed or saved it; then nothing is stored."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """What a source yields: a change with its position; without a change, only the news that the source has come this far."""

    position: str
    change: Change | None


class Source(Protocol):
    """Where changes come from. It belongs to one reader, who holds its lease.

    The order of calls is `open`, then `read` again and again, `acknowledge`, `save` and `bury` beside it, then `close`; after
    `close` it can be opened again.
    """

    @property
    def name(self) -> str:
        """The name of its checkpoint and of its series in the metrics: lower-case letters."""
        ...

    @property
    def incidents(self) -> Mapping[Incident, int]:
        """How often each has happened since the process began; those that never did may be missing."""
        ...

    async def open(self, fence: int) -> None:
        """Claim the checkpoint and go there. Raises `Fenced` when a later reader has claimed it."""
        ...

    async def read(self, limit: int) -> Sequence[Item]:
        """Return up to `limit` items behind those already read; with nothing new, wait (at most a second) and return none."""
        ...

    async def acknowledge(self, acknowledged: Sequence[tuple[str, int]]) -> None:
        """Note for each (position, Unix milliseconds) that every message of its change was acknowledged, and when."""
        ...

    async def save(self, position: str) -> None:
        """Store durably that everything up to `position` is done. Raises `Fenced` when a later reader has claimed it."""
        ...

    async def bury(self, item: Item, reason: str) -> None:
        """Record durably that this change could not be published, and why."""
        ...

    async def backlog(self) -> int | None:
        """Return how many changes wait behind the saved position; None when the source cannot tell."""
        ...

    async def close(self) -> None:
        """Let go of what reading holds; no error when it is closed."""
        ...
