"""Events of change streams as changes, documents as JSON, and what is watched."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from pydantic import ValidationError

from companion.core.model import ChangeOp
from companion.settings import Settings
from companion.stores.mongo.events import change_of, event_id_of, id_of, json_of, milliseconds_of
from companion.stores.mongo.place import Catch, Place, read_place
from companion.stores.mongo.watching import OWN, scope_of

OID = ObjectId("65f100000000000000000001")
MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.timezone(dt.timedelta(hours=2)))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (OID, "65f100000000000000000001"),
        (MOMENT, "2026-01-02T01:04:05.678Z"),
        (DatetimeMS(2**60), 2**60),
        (Timestamp(7, 1), 7000),
        (Int64(5), 5),
        (True, True),
        (1.5, 1.5),
        (float("nan"), None),
        (float("-inf"), None),
        (Decimal128("1.10"), "1.10"),
        (Binary(b"\xff"), "/w=="),
        (b"\xff", "/w=="),
        (Regex("^a"), "^a"),
        ([{"a": (OID,)}], [{"a": ["65f100000000000000000001"]}]),
        (None, None),
    ],
)
def test_json(value: object, shown: object) -> None:
    """Every type of BSON has a JSON that can be written."""
    assert json_of(value) == shown
    json.dumps(json_of(value), allow_nan=False)


def test_ids() -> None:
    """Ids are text, whatever they are in MongoDB."""
    assert [id_of(one) for one in ("x", OID, 7, {"a": 1})] == ["x", "65f100000000000000000001", "7", "{'a': 1}"]


def test_times() -> None:
    """The wall clock where there is one, else the cluster's time."""
    cluster = {"clusterTime": Timestamp(9, 1)}
    assert milliseconds_of({**cluster, "wallTime": MOMENT}) == 1767315845678
    assert milliseconds_of({**cluster, "wallTime": DatetimeMS(12)}) == 12
    assert milliseconds_of(cluster) == 9000
    assert milliseconds_of({}) == 0


def test_event_ids_follow_tokens() -> None:
    """The same token gives the same id for ever; another one gives another."""
    assert event_id_of({"_data": "8265"}) == event_id_of({"_data": "8265"}) != event_id_of({"_data": "8266"})
    assert event_id_of({"_data": "8265"}).startswith("m-")


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {
        "_id": {"_data": "82"},
        "operationType": kind,
        "ns": {"db": "d", "coll": "c"},
        "documentKey": {"_id": 1},
        **fields,
    }


def test_what_is_no_change_of_an_entity() -> None:
    """A collection that comes or goes is none."""
    for kind in ("drop", "rename", "invalidate", "create", "modify"):
        assert change_of(event(kind)) is None


def test_a_replacement_without_a_picture_of_before() -> None:
    """Nobody can tell whether it restored: an update."""
    change = change_of(event("replace", fullDocument={"deleted_at": None}))
    assert change is not None
    assert change.op is ChangeOp.UPDATE


def test_places() -> None:
    """A place can be written and read again, whatever is in its token."""
    for catch in (None, Catch(1, 2), Catch(1, 2, "thing.devices", "updated_at", 2**50)):
        place = Place({"_data": "82", "_typeBits": b"\x00\x01"}, 2**33, catch)
        assert read_place(place.text()) == place


def test_scopes() -> None:
    """A database that is watched whole swallows its collections; ours are never watched."""
    scope = scope_of(["a.*", "a.x", "b.y", "b.z", "own.*"], "own")
    assert scope.only_database is None
    assert scope.match() == {
        "$or": [
            {"operationType": "invalidate"},
            {"ns.db": {"$in": ["a"]}},
            {"ns.db": "own", "ns.coll": {"$nin": sorted(OWN)}},
            {"ns.db": "b", "ns.coll": {"$in": ["y", "z"]}},
            {"to.db": {"$in": ["a"]}},
            {"to.db": "own", "to.coll": {"$nin": sorted(OWN)}},
            {"to.db": "b", "to.coll": {"$in": ["y", "z"]}},
        ]
    }
    assert scope_of(["a.x", "a.y"], "own").only_database == "a"


@pytest.mark.parametrize(
    "name", ["thing", ".x", "thing.", "*.x", "th*.x", "admin.*", "local.x", "thing.d*", "companion.mqtt_rules"]
)
def test_names_that_cannot_be_watched(name: str) -> None:
    """They are refused with what is allowed."""
    with pytest.raises(ValidationError, match=r"each is|a collection is"):
        Settings.model_validate({"changes_watch": f"thing.*,{name}"})


def test_nothing_is_watched() -> None:
    """A dash stands for nothing."""
    assert Settings.model_validate({"changes_watch": "-"}).changes_watch == ()
