"""Collections of any kind, for jobs that go through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from companion.core.model import Document
from companion.core.ports.leases import Lease


@dataclass(frozen=True, slots=True)
class Selection:
    """Which documents of a collection are due: those that fit `query` and whose field `time` is before `before`.

    `before` is in Unix milliseconds. What fits `hold` is never due, whatever else. Queries are MongoDB's; other stores
    understand equality and `$in`.
    """

    time: str
    before: int
    query: Document = field(default_factory=dict)
    hold: Document = field(default_factory=dict)


class Stored(NamedTuple):
    """A document as it is stored: its id as text that only its store understands, and itself as one line of extended JSON.

    A tuple, for they are made by the hundred thousand.
    """

    id: str
    line: bytes


@dataclass(frozen=True, slots=True)
class Removed:
    """How many documents were removed, and how many are still there because they have changed."""

    count: int
    changed: int = 0


class Documents(Protocol):
    """Collections of any kind (`database.collection`), for jobs that go through them. Every removal bears the lease of its job."""

    async def check(self, collection: str, selection: Selection) -> None:
        """Raise `Invalid` for a collection that there cannot be, or for a selection that this store cannot follow."""
        ...

    async def count(self, collection: str) -> int:
        """Return about how many there are."""
        ...

    async def count_due(self, collection: str, selection: Selection) -> int:
        """Return how many are due."""
        ...

    async def due(
        self, collection: str, selection: Selection, after: str, limit: int, *, lines: bool = True
    ) -> Sequence[Stored]:
        """Return up to `limit` that are due, behind the id `after`, in the order of their ids, about that of their making.

        Without `lines` their lines are empty.
        """
        ...

    def read(self, collection: str, lines: Sequence[bytes]) -> Sequence[Stored]:
        """Return the documents of these lines with their ids. Raises `Invalid` for a line that is no document."""
        ...

    async def remove(
        self, collection: str, selection: Selection, stored: Sequence[Stored], lease: Lease, *, unchanged: bool
    ) -> Removed:
        """Remove of these those that are still due and, if `unchanged`, still what they were.

        Raises `Fenced` when a later lease of the same name has been here; then nothing is removed.
        """
        ...

    async def restore(self, collection: str, lines: Sequence[bytes]) -> int:
        """Put back those that are not there; return how many were. Raises `Invalid` for a line that is no document."""
        ...
