"""What the judge takes from the log of the MongoDB stand-in."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from companion.stores.mongo.checkpoints import COLLECTION as CHECKPOINTS
from companion.stores.mongo.events import event_id_of
from tests.faults.history import History
from tests.faults.workload import COLLECTION, DB, Planned, planned

DATABASE = "companion"
CREATED, CHANGED, DESTROYED, AGAIN = (
    planned(1, number, op) for number, op in enumerate(("create", "update", "destroy", "create"), 1)
)
KINDS = {"create": "insert", "update": "update", "destroy": "delete"}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Any]:
    """Open the log as the stand-in does."""
    oplog = importlib.import_module("tests.standins.mongo.oplog").Oplog(tmp_path / "mongo.sqlite3.oplog")
    yield oplog
    oplog.close()


@pytest.fixture
def history(log: Any, tmp_path: Path) -> Iterator[History]:
    del log
    opened = History(tmp_path, DATABASE)
    yield opened
    opened.close()


def happen(log: Any, *changes: Planned) -> None:
    for change in changes:
        after = None if change.op == "destroy" else {"_id": change.entity, **change.document}
        log.write(KINDS[change.op], DB, COLLECTION, {"_id": change.entity}, after)


def test_each_change_gets_the_id_of_its_event(log: Any, history: History) -> None:
    """A change is known by its entity and its number, whatever happened to the entity, and has the id of its place in the log."""
    happen(log, CREATED, CHANGED, DESTROYED, AGAIN)
    named = history.named([AGAIN, CREATED, CHANGED, DESTROYED])
    ids = [event_id_of(entry.token) for entry in log.behind(0, 10)]
    assert [change.event_id for change in named] == [ids[3], ids[0], ids[1], ids[2]]
    assert [change.number for change in named] == [4, 1, 2, 3]


def test_a_change_that_is_not_there(log: Any, history: History) -> None:
    """What MongoDB acknowledged and forgot fails the run: it is no loss of ours."""
    happen(log, CREATED)
    with pytest.raises(AssertionError, match="not in the log"):
        history.named([CREATED, CHANGED])


def test_a_change_that_is_there_twice(log: Any, history: History) -> None:
    """A change that happened twice has no one id: that fails the run as well."""
    happen(log, CREATED, CHANGED, CREATED, CHANGED)
    with pytest.raises(AssertionError, match="happened twice"):
        history.named([CREATED])


def test_how_far_the_checkpoint_is(log: Any, history: History) -> None:
    """A checkpoint has passed the events of entities at and before its place, and none behind it."""
    assert history.passed() is None
    happen(log, CREATED, CHANGED)
    first, second = history.told()
    for told, passed in ((first, 1), (second, 2), (first, 1)):
        checkpoint = {"_id": "mongodb", "fence": passed, "position": history.position_behind(told)}
        log.write("update", DATABASE, CHECKPOINTS, {"_id": "mongodb"}, checkpoint)
        assert history.passed() == passed
