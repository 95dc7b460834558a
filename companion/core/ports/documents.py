"""Collections of any kind, for jobs that go through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

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


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents as they are stored, in the order of their ids.

    `first` and `last` are ids as text that only their store understands, and `ids` what else it wants to know of them. `lines` are
    the documents, each as one line of extended JSON with its end; empty where only ids were asked for. They stay together
    because there are millions of them: what is done for each one alone is what a job takes its time for.

    `mark` stands for the state in which they were read, if the store can tell that nothing of the collection was rewritten
    since (see `remove_as_read`); it marks all batches of a collection or none.
    """

    count: int
    first: str
    last: str
    lines: bytes = b""
    ids: Sequence[Any] = ()
    mark: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Removed:
    """How many documents were removed, and how many are still there because they have changed."""

    count: int
    changed: int = 0


class Replacement(NamedTuple):
    """The line of a document as it was read, and the line of what is to stand in its place, under the same id."""

    was: bytes
    line: bytes


@dataclass(frozen=True, slots=True)
class Replaced:
    """How many documents were replaced, and how many are still there as somebody else has changed them."""

    count: int
    changed: int = 0


class Documents(Protocol):
    """Collections of any kind (`database.collection`), for jobs that go through them.

    Every removal and replacement bears the lease of its job.
    """

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
    ) -> Batch | None:
        """Return up to `limit` that are due, behind the id `after`, in the order of their ids, about that of their making.

        None when there are none. Without `lines` only their ids are read.
        """
        ...

    async def due_batches(
        self, collection: str, selection: Selection, after: str, limit: int, batches: int, *, lines: bool = True
    ) -> Sequence[Batch]:
        """Return up to so many batches, each as `due` returns it, one behind the other; none when there are none.

        There may be more behind them, also where they are fewer. A store in which asking takes as long as reading reads several.
        """
        ...

    async def matching(
        self, collection: str, field: str, values: Sequence[str], *, hold: Document, after: str, limit: int
    ) -> Batch | None:
        """Return up to `limit` whose field is one of the values, or a list with one in it, and that do not fit `hold`.

        They are behind the id `after`, in the order of their ids; None when there are none. A text that an id can be written as
        stands for that as well.
        """
        ...

    def read(self, collection: str, lines: bytes) -> Batch:
        """Return the documents of these lines, of which there is at least one. Raises `Invalid` for one that is no document."""
        ...

    async def remove(
        self, collection: str, selection: Selection, batch: Batch, lease: Lease, *, unchanged: bool
    ) -> Removed:
        """Remove of these those that are still due and, if `unchanged`, still what their lines say.

        Raises `Fenced` when a later lease of the same name has been here; then nothing is removed.
        """
        ...

    async def remove_as_read(self, collection: str, selection: Selection, batch: Batch, lease: Lease) -> Removed | None:
        """Remove a batch that `due` returned, if all that is left of it is what was read; `lines` and `ids` may be gone from it.

        None, and nothing is removed, where the store does not know: then the lines have to be compared (`remove`). Raises
        `Fenced` as `remove` does.
        """
        ...

    async def replace(self, collection: str, replacements: Sequence[Replacement], lease: Lease) -> Replaced:
        """Replace all of these that are still what they were; of a field that stays the same nothing is written.

        Raises `Fenced` as `remove` does, and `Invalid` for a line that is no document or has another id; then nothing is replaced.
        """
        ...

    async def restore(self, collection: str, lines: Sequence[bytes]) -> int:
        """Put back those that are not there; return how many were. Raises `Invalid` for a line that is no document."""
        ...
