"""What happened in the MongoDB stand-in, read from the file of its log, also while it is frozen or dead.

The judge of changes that were written to MongoDB: the log says which event each of them became, and what follows from that is its
event id. Nothing of that comes from the publisher.
"""

from __future__ import annotations

import importlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from companion.stores.mongo.checkpoints import COLLECTION as CHECKPOINTS
from companion.stores.mongo.events import event_id_of
from companion.stores.mongo.place import Place, read_place
from companion.stores.mongo.source import MongoSource
from tests.faults.workload import COLLECTION, DB, Planned

_SCAN = 1000


@dataclass(frozen=True, slots=True)
class Told:
    """An event of an entity: its place in the log, which change it was, and how receivers know it."""

    place: int
    entity: str
    number: int
    event_id: str


class History:
    """The log of `folder`'s stand-in, as far as it is about the entities of the tests and the checkpoint in `database`."""

    def __init__(self, folder: Path, database: str) -> None:
        # By its name, because it belongs to the programs of another interpreter, and so it is checked.
        self._module = importlib.import_module("tests.standins.mongo.oplog")
        self._log = self._module.Oplog(folder / "mongo.sqlite3.oplog")
        self._database = database
        self._seen = 0
        self._places: list[int] = []
        self._told: list[Told] = []

    def close(self) -> None:
        """Let go of the file."""
        self._log.close()

    def told(self) -> Sequence[Told]:
        """Return every event, in the order in which they happened."""
        while entries := self._log.behind(self._seen, _SCAN):
            for entry in entries:
                self._seen = entry.number
                event = entry.event
                if event["ns"] == {"db": DB, "coll": COLLECTION}:
                    entity, number = event["documentKey"]["_id"], _number(event)
                    self._places.append(entry.number)
                    self._told.append(Told(entry.number, entity, number, event_id_of(entry.token)))
        return self._told

    def passed(self) -> int | None:
        """Return how many of them the publisher's checkpoint has passed, None while it has none."""
        checkpoint = self._log.current(self._database, CHECKPOINTS, {"_id": MongoSource.name})
        text = (checkpoint or {}).get("position")
        if text is None:
            return None
        self.told()
        return bisect_right(self._places, self._module.number_of(read_place(text).token))

    def position_behind(self, told: Told) -> str:
        """Return the checkpoint of a publisher that is done with this event and everything before it."""
        (entry,) = self._log.behind(told.place - 1, 1)
        return Place(entry.token, entry.seconds).text()

    def named(self, written: Sequence[Planned]) -> Sequence[Planned]:
        """Return the changes with their event ids; fail unless each happened exactly once."""
        ids: dict[tuple[str, int], str] = {}
        for told in self.told():
            key = (told.entity, told.number)
            assert key not in ids, f"happened twice: {key}"
            ids[key] = told.event_id
        missing = [change for change in written if (change.entity, change.number) not in ids]
        assert not missing, f"acknowledged, and not in the log of MongoDB: {missing[:3]}"
        return [replace(change, event_id=ids[change.entity, change.number]) for change in written]


def _number(event: Mapping[str, Any]) -> int:
    """Return the number of a change; to destroy an entity is one more than what it was before."""
    match event["operationType"]:
        case "insert":
            return int(event["fullDocument"]["number"])
        case "update":
            return int(event["updateDescription"]["updatedFields"]["number"])
        case "delete":
            return int(event["fullDocumentBeforeChange"]["number"]) + 1
    raise AssertionError(f"nobody did this: {event}")
