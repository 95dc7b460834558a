"""What is done when a change stream of MongoDB has lost its history: what changed since is found by its times."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest

from companion.core.model import ChangeOp, Incident
from tests.support.mongo_source import INVALID_TEXT, Documents, Opener, db, order, reader, server

__all__ = ["db", "reader", "server"]


def times(seconds_ago: float, *names: str) -> dict[str, Any]:
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds_ago)
    return dict.fromkeys(names, moment)


async def lose(db: Documents, code: int) -> None:
    name = {286: "ChangeStreamHistoryLost", 280: "ChangeStreamFatalError", 260: "InvalidResumeToken"}[code]
    await order(db, "error", code=code, name=name)


@pytest.mark.parametrize("code", [286, 280, 260])
@pytest.mark.parametrize("indexes", [(), ("updated_at",), ("updated_at", "created_at", "deleted_at", "restored_at")])
async def test_a_lost_history(db: Documents, reader: Opener, code: int, indexes: Sequence[str]) -> None:
    """It is counted and recorded; what changed since is found once, and what follows is told by the new stream."""
    for name in indexes:
        await db.thing.devices.create_index(name)
    old = {"created_at": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}
    one = await reader()
    await db.thing.devices.insert_many(
        [
            {"_id": "old", **old, **times(100_000, "updated_at")},
            {"_id": "new", **times(5, "created_at", "updated_at")},
            {"_id": "updated", **old, **times(4, "updated_at")},
            {"_id": "deleted", **old, **times(3, "deleted_at")},
            {"_id": "restored", **old, **times(2, "restored_at"), "deleted_at": None},
            {"_id": "spoilt", **times(1, "updated_at"), "name": INVALID_TEXT},
        ]
    )
    await one.source._stream.open()  # type: ignore[union-attr]
    await lose(db, code)
    found = await one.until_quiet()
    op = ChangeOp
    assert {change.id: change.op for change in found} == {
        "new": op.CREATE,
        "updated": op.UPDATE,
        "deleted": op.DELETE,
        "restored": op.RESTORE,
    }
    assert len(found) == 4
    assert one.source.incidents == {Incident.HISTORY_LOST: 1, Incident.RESYNCHRONISED: 5, Incident.UNREADABLE: 1}
    (run,) = await db.companion.mqtt_runs.find().to_list()
    assert (run["job"], run["trigger"], run["state"], run["done"]) == ("resync", "incident", "done", 5)
    assert run["parameters"]["since"] < run["parameters"]["until"] <= run["ended_at"] / 1000
    assert str(code) in run["parameters"]["reason"]
    (letter,) = await db.companion.mqtt_dead_letters.find().to_list()
    assert letter["key"] == "spoilt"
    await db.thing.devices.update_one({"_id": "old"}, {"$set": {"n": 1}})
    assert (await one.read(5))[-1].id == "old"
    await one.source.save(one.items[-1].position)
    assert await (await reader(2)).until_quiet() == []


async def test_a_history_that_ended_while_we_were_away(db: Documents, reader: Opener) -> None:
    """The log was cut off before the saved place: what it held is found by its times."""
    one = await reader()
    await one.source.close()
    await db.thing.devices.insert_one({"_id": "unseen", **times(0, "created_at", "updated_at")})
    await order(db, "forget")
    two = await reader(2)
    assert [(change.id, change.op) for change in await two.until_quiet()] == [("unseen", ChangeOp.CREATE)]
    assert two.source.incidents[Incident.HISTORY_LOST] == 1


@pytest.mark.parametrize("stop", [1, 3, 5, 8])
async def test_a_resynchronisation_goes_on_after_a_death(db: Documents, reader: Opener, stop: int) -> None:
    """Its place is part of the position: who takes over finds the rest, and what comes twice has the same event id."""
    await db.thing.devices.create_index("updated_at")
    one = await reader(batch=2)
    names = [f"{number}" for number in range(6)]
    for seconds, name in enumerate(names):
        await db.thing.devices.insert_one({"_id": name, **times(30 - seconds, "created_at", "updated_at")})
        await db.domain.clients.insert_one({"_id": name, **times(30, "created_at")})
    await one.source.close()
    await order(db, "forget")
    await one.read(stop)
    await one.source.save(one.items[stop - 1].position)
    two = await reader(2, batch=2)
    await two.until_quiet()
    both = {change.event_id: change.entity for change in [*one.changes[:stop], *two.changes]}
    assert sorted(both.values()) == sorted(
        [("thing", "devices", name) for name in names] + [("domain", "clients", name) for name in names]
    )
    (run,) = await db.companion.mqtt_runs.find().to_list()
    assert run["state"] == "done"
