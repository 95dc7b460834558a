"""Which changes there are: numbered per entity, some entities far more often than others. Pure, and the same for a seed.

They suit both ways to take part: an entity is created first, and again after it was destroyed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

DB: Final = "thing"
COLLECTION: Final = "devices"
LANES: Final = 4
_HOT_ENTITIES: Final = 0.05
_HOT_CHANGES: Final = 0.33
_OPS: Final = ("update", "update", "delete", "restore") * 4 + ("destroy",)
_GONE: Final = frozenset({"delete", "destroy"})


@dataclass(frozen=True, slots=True)
class Planned:
    """One change: the `number`-th of its entity, and where it has to arrive. `body` is what is posted."""

    event_id: str
    entity: str
    number: int
    topics: tuple[str, ...]
    body: dict[str, Any]

    @property
    def op(self) -> str:
        """What happens to the entity."""
        return str(self.body["op"])

    @property
    def document(self) -> Mapping[str, Any]:
        """The entity with this number; for one that is gone, as it was last."""
        document: Mapping[str, Any] = self.body["before" if self.op in _GONE else "after"]
        return document


Lane = Sequence[Planned]
"""The changes of one poster, in the order in which they are posted. The changes of an entity are all in one lane."""


def plan(changes: int, *, entities: int = 200, shared: bool = True, seed: int = 1) -> Sequence[Lane]:
    """Return the changes in lanes that can be posted side by side.

    Every fourth entity of a lane is shared, if `shared`: its changes go to two topics, all others to one.
    """
    drawn = random.Random(seed)  # noqa: S311 - repeatable, and no secret
    hot = max(1, int(entities * _HOT_ENTITIES))
    numbers = [0] * entities
    last = ["destroy"] * entities
    lanes: list[list[Planned]] = [[] for _ in range(LANES)]
    for _ in range(changes):
        index = drawn.randrange(hot if drawn.random() < _HOT_CHANGES else entities)
        numbers[index] += 1
        op = last[index] = "create" if last[index] == "destroy" else drawn.choice(_OPS)
        lanes[index % LANES].append(planned(index, numbers[index], op, shared=shared and index // LANES % 4 == 0))
    return lanes


def planned(index: int, number: int, op: str = "", *, shared: bool = False) -> Planned:
    """Return the `number`-th change of the entity with this index; without `op` it is made or updated."""
    op = op or ("create" if number == 1 else "update")
    entity = f"d{index:03}"
    owner, share = f"owner-{index:03}", f"friend-{index:03}"
    document = {"id": entity, "owner": owner, "shares": [share] if shared else [], "number": number}
    event_id = f"{entity}-{number:06}"
    return Planned(
        event_id,
        entity,
        number,
        tuple(f"{who}/{DB}/{entity}/{COLLECTION}" for who in ([owner, share] if shared else [owner])),
        {
            "event_id": event_id,
            "op": op,
            "db": DB,
            "collection": COLLECTION,
            "id": entity,
            # What is deleted is known by what it was.
            "before" if op in _GONE else "after": document,
        },
    )
