"""Housekeeping and the anonymizer, killed (`kill -9`) before and after every single step, one after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from companion.core.model import Audit, Change, ChangeOp, Session
from companion.core.pseudonyms import Pseudonyms
from companion.core.runs import Run, RunState, Trigger
from companion.stores.embedded import EmbeddedStore
from maintenance.anonymizer import Anonymizer
from maintenance.housekeeping import Housekeeping
from maintenance.records import request_of
from tests.conftest import Note
from tests.faults.killing import PARALLEL, Folders, Place, kill_at_every_step, places

DAY: Final = 86_400_000
RECORDS: Final = 2
PEOPLE: Final = {"ann": 1000, "ben": 1000, "kim": None}
"""By name, when the account was deleted (Unix milliseconds or seconds, long ago)."""

GONE: Final = [name for name, deleted in PEOPLE.items() if deleted]


class Keeping(Folders):
    """Changes, audit records, sessions and runs, of each some that are due."""

    async def prepare(self) -> Mapping[str, Any]:
        now = self.begin()
        async with EmbeddedStore.open(self.data) as store:
            await store.inbox.append([Change(f"{n}", ChangeOp.UPDATE, "d", "c", "1", 0) for n in range(6)])
            await store.inbox.bury(2, "refused")
            await store.checkpoints.save("publisher", "4", 1)
            await store.audits.append(
                [Audit(now - n % 2 * 99 * DAY, "auth", "deny", "no_rule", topic=f"{n}") for n in range(6)]
            )
            for n in range(4):
                await store.sessions.put(Session("u", f"{n}", "u", "s", now // 1000 + (3600 if n % 2 else -3600)))
            for n in range(5):
                await store.runs.add(Run(f"{n}", "x", Trigger.PERSON, n, 0, state=RunState.DONE, ended_at=n))
            await self.ask(store, Housekeeping(), now)
        return {"data_dir": self.data, "retention_changes": 1e-9, "retention_runs_count": 2}

    async def check(self, *, undisturbed: bool) -> None:
        """All that was due is gone, all else is there."""
        async with EmbeddedStore.open(self.data) as store:
            run = await self.done(store)
            assert [one.position for one in await store.inbox.read(0, 10)] == [5, 6]
            assert [one.position for one, _ in await store.inbox.dead()] == [2]
            assert [one.topic for one in await store.audits.latest(10)] == ["4", "2", "0"]
            sessions = [await store.sessions.get("u", f"{n}") for n in range(4)]
            assert [one is not None for one in sessions] == [False, True, False, True]
            assert [one.id for one in await store.runs.list(jobs=["x"])] == ["4", "3"]
        due = {"changes": 3, "audits": 3, "sessions": 2, "runs": 3}
        # What a life did before it died, and did not come to note, its run does not know of.
        assert all(run.progress.counts.get(what, 0) <= count for what, count in due.items())
        assert not undisturbed or (run.progress.counts == due and run.progress.done == 11)


class Anonymizing:
    """Two accounts that were deleted long ago, one that was not, and what all have left, in databases of its own."""

    def __init__(self, place: Place) -> None:
        own = str(place.settings["mongo_database"])
        users, records = (f"{own}-x.{name}" for name in ("users", "records"))
        self._settings = {
            **place.settings,
            "anonymizer_key": "k" * 32,
            "anonymizer_accounts": {
                "users": {"collection": users, "names": ["_id"], "replace": ["mail"], "remove": ["password"]}
            },
            "anonymizer_traces": {
                **{name: {"collection": "-"} for name in ("decisions", "sessions", "profiles", "stats")},
                "audits": {"collection": records, "by": ["owner"], "names": ["owner", "topic"], "replace": ["ip"]},
            },
        }
        self._own, self._other, self._store = place.driver[own], place.driver[f"{own}-x"], place.store
        self._run = request_of(Anonymizer(), {}, 0)

    async def prepare(self) -> Mapping[str, Any]:
        for collection in (self._other.users, self._other.records, self._own.mqtt_runs):
            await collection.delete_many({})
        await self._other.users.insert_many(
            [{"_id": name, "mail": f"{name}@x.org", "password": "x", "deleted_at": at} for name, at in PEOPLE.items()]
        )
        await self._other.records.insert_many(
            [
                {"_id": f"{name}{n}", "owner": name, "topic": f"t/{name}", "ip": f"ip {name}"}
                for name in PEOPLE
                for n in range(RECORDS)
            ]
        )
        self._run = request_of(Anonymizer(), {}, int(time.time() * 1000))
        await self._store.runs.add(self._run)
        return self._settings

    async def check(self, *, undisturbed: bool) -> None:
        """Whoever was deleted long ago is nobody any more, in all that there is; all else is what it was."""
        of = Pseudonyms("k" * 32).of
        users = {one["_id"]: one async for one in self._other.users.find({})}
        assert users["kim"] == {"_id": "kim", "mail": "kim@x.org", "password": "x", "deleted_at": None}
        for name in GONE:
            assert users[name].pop("anonymized_at")
            assert users[name] == {"_id": name, "mail": of(f"{name}@x.org"), "deleted_at": 1000}
        records = {one["_id"]: one async for one in self._other.records.find({})}
        for name in PEOPLE:
            owner, ip = (of(name), of(f"ip {name}")) if name in GONE else (name, f"ip {name}")
            wanted = {"owner": owner, "topic": f"t/{owner}", "ip": ip}
            assert [records[f"{name}{n}"] for n in range(RECORDS)] == [
                {"_id": f"{name}{n}", **wanted} for n in range(RECORDS)
            ]
        run = await self._store.runs.get(self._run.id)
        assert run is not None
        assert (run.state, run.progress.done, run.progress.total) == (RunState.DONE, len(GONE), len(GONE)), run
        counts = {"users replaced": len(GONE), "audits replaced": RECORDS * len(GONE)}
        assert all(run.progress.counts.get(what, 0) <= count for what, count in counts.items())
        assert not undisturbed or run.progress.counts == counts


@pytest.mark.timeout(280)
async def test_housekeeping(tmp_path: Path, note: Note) -> None:
    """Killed before and after each of its steps, in turn: the next life comes to the same end as an undisturbed run."""
    cases = [Keeping(tmp_path / f"{n}") for n in range(PARALLEL)]
    steps, _ = await kill_at_every_step(tmp_path, note, "housekeeping", cases)
    assert steps > 40


@pytest.mark.timeout(280)
async def test_the_anonymizer(tmp_path: Path, note: Note) -> None:
    """The same, also within its transactions."""
    async with places(tmp_path) as found:
        cases = [Anonymizing(place) for place in found]
        steps, _ = await kill_at_every_step(tmp_path, note, "anonymizer", cases)
    assert steps > 40
