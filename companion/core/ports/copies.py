"""Copies of entities that are read often, and who keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from companion.core.model import Document, Drift, Rebuild


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of an entity as JSON. `version` grows with every change of it; `document` is None once the entity is gone.

    `keys` are (name, value) pairs by which it is found beside its id, such as ("username", "alice").
    """

    id: str
    version: int
    document: Document | None
    keys: tuple[tuple[str, str], ...] = ()


class Mirror(Protocol):
    """Copies of entities that are read often, each collection for itself. It has one writer, whose lease's token is the `fence`.

    What is read is never older than the writer says (`serve`); nothing is read when the writer has been silent for too long.
    Every writing call raises `Fenced` when a later writer has been here, and then changes nothing.
    """

    async def put(
        self,
        collection: str,
        copies: Sequence[Copy],
        fence: int,
        generation: int | None = None,
        *,
        number: int | None = None,
    ) -> int:
        """Take over those that are newer than what stands here, also that one is gone; return how many were.

        Without a `generation` into the one that is read. `number` counts the calls for a generation from 1: raises `Forgotten`, and
        changes nothing, when the one before it is not here any more. So does a `generation` that never began or was swept.
        """
        ...

    async def get(self, collection: str, entity_id: str) -> Copy | None:
        """Return the copy; None when there is none, which does not mean that there is no such entity."""
        ...

    async def find(self, collection: str, key: str, value: str) -> Sequence[Copy] | None:
        """Return the copies with this key, in the order of their ids; None when nothing may be read."""
        ...

    async def clock(self, collection: str) -> int:
        """Return the time by which `serve` counts, in milliseconds."""
        ...

    async def serve(
        self, collection: str, seconds: float, fence: int, *, since: int | None = None, number: int | None = None
    ) -> None:
        """Let the copies be read for so long from now on, or from `since` on by the clock of the mirror.

        Raises `Forgotten` when the put of this `number` is not in what is read; then nothing is read.
        """
        ...

    async def digest(self, collection: str, after: str, through: str | None) -> str:
        """Return one digest of all copies with an id behind `after` up to `through` (None: to the end), in UTF-8 order."""
        ...

    async def digests(self, collection: str, after: str, through: str | None) -> Mapping[str, str]:
        """Return the digest of each of these copies by its id (`digest_of`)."""
        ...

    async def begin(self, collection: str, fence: int) -> int:
        """Begin a new generation, empty and not read yet, and return its number."""
        ...

    async def promote(self, collection: str, generation: int, fence: int) -> None:
        """Let this generation be the one that is read, at once and as a whole."""
        ...

    async def sweep(self, collection: str, limit: int, fence: int) -> int:
        """Remove up to `limit` copies of generations that are older than the one that is read; return how many were.

        What is remembered of entities that are gone counts as copies. Once it returns 0, nothing is left of those generations.
        """
        ...


class Onlooker(Protocol):
    """Is told what whoever keeps the mirror does."""

    def rebuilding(self, collection: str, why: Rebuild) -> None:
        """Hear that a collection is to be copied anew."""
        ...

    def taken(self, collection: str, copies: int) -> None:
        """Hear that so many changes were written into the mirror."""
        ...

    def served(self, collection: str, seconds: float) -> None:
        """Hear that the copies may be read: they are those of so many seconds ago, or newer."""
        ...


@dataclass(frozen=True, slots=True)
class Compared:
    """One range of a mirrored collection: where it ends (None: nothing is behind it), and what differed.

    `silent` is whether nobody could be told: the collection is not mirrored as a whole at present, and nothing was compared.
    """

    through: str | None
    checked: int
    drift: Mapping[Drift, int]
    silent: bool = False


class Watcher(Protocol):
    """Keeps the mirror as the store is: one follows what changes, under a lease; anybody may compare."""

    @property
    def collections(self) -> Sequence[str]:
        """The names of what is mirrored; none where nothing is."""
        ...

    async def follow(self, fence: int, onlooker: Onlooker) -> None:
        """Keep the mirror, building anew what has to be; never returns. Raises `Fenced` when a later one has begun to."""
        ...

    async def compare(self, collection: str, after: str, limit: int, *, repair: bool) -> Compared:
        """Compare up to `limit` entities behind `after`, in the mirror's order, and make good what differs.

        What is on its way to the mirror is waited for, and is no difference. Raises `Transient` when nobody follows.
        """
        ...

    async def ask_for_rebuild(self) -> str:
        """Ask whoever follows to build everything anew; return what `rebuilt` wants to know."""
        ...

    async def rebuilt(self, asked: str) -> bool:
        """Tell whether that was done."""
        ...
