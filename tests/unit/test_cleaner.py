"""The cleaner, over a real store and a real folder: what goes, what stays, and where it went."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from companion.cleaning import Policy
from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.errors import CompanionError, Invalid, Permanent
from companion.core.model import Audit
from companion.core.ports import Lease, Replacement, Selection
from companion.core.runs import Progress, Run, Trigger
from companion.leadership import Term
from companion.settings import Settings
from companion.stores.embedded import EmbeddedStore
from maintenance.archive.folder import Folder
from maintenance.archive.target import target_of
from maintenance.cleaner import Cleaner, policies_of
from maintenance.job import Work
from tests.support.service import make_settings

DAY = 86_400
NOW = 1_800_000_000.0


@dataclass
class House:
    """A store with a hundred audit records, one a day, the newest of today."""

    folder: Path
    store: EmbeddedStore
    lease: Lease
    runs: int = 0

    async def run(
        self, policy: Mapping[str, Any], *, dry: bool = False, now: float = NOW, **parameters: Any
    ) -> list[Progress]:
        self.runs += 1
        run = Run(f"run{self.runs}", "cleaner", Trigger.PERSON, 0, 0, parameters, dry=dry)
        return await self.live(policy, run, now)

    async def live(self, policy: Mapping[str, Any], run: Run, now: float = NOW) -> list[Progress]:
        settings = make_settings(
            self.folder, cleaner_policies={"audits": {"collection": "mqtt_audits", "time": "at", **policy}}
        )
        term = Term(self.lease, 3600, time.monotonic(), time.monotonic)
        work = Work(run, term, settings, self.store, now=lambda: now)
        return [progress async for progress in Cleaner().batches(work)]

    async def left(self) -> list[int]:
        return sorted(int(one.topic) for one in await self.store.audits.latest(1000))

    def archived(self) -> list[int]:
        folder = Folder(self.folder / "archive")
        found = []
        for manifest in folder.list():
            folder.verify(manifest)
            found += [int(json.loads(line)["topic"]) for line in b"".join(folder.lines(manifest, 10)).splitlines()]
        return sorted(found)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with EmbeddedStore.open(tmp_path) as store:
        records = [
            Audit(int((NOW - n * DAY) * 1000), "auth", "deny", "no_rule", "abc"[n % 3], topic=f"{n}")
            for n in range(100)
        ]
        await store.audits.append(records)
        lease = await store.leases.acquire("job:cleaner", "me", 3600)
        assert isinstance(lease, Lease)
        yield House(tmp_path, store, lease)


async def test_archived_and_removed(house: House) -> None:
    """What is older than its age is in the archive and nowhere else; the report says how many, batch by batch."""
    progress = await house.run({"days": 69.5, "batch": 7, "most": 50})
    assert await house.left() == list(range(70))
    assert house.archived() == list(range(70, 100))
    assert progress[-1].counts == {"audits archived": 30, "audits removed": 30}
    assert [one.counts.get("audits archived") for one in progress][:5] == [7, 14, 21, 28, 30]
    assert (progress[-1].done, progress[-1].total) == (30, 30)
    assert [one.done for one in progress] == sorted(one.done for one in progress)
    assert await house.run({"days": 69.5}, now=NOW) != []
    assert house.archived() == list(range(70, 100))


async def test_only_removed(house: House) -> None:
    """Without an archive nothing is written."""
    progress = await house.run({"days": 69.5, "batch": 7, "archive": False})
    assert await house.left() == list(range(70))
    assert progress[-1].counts == {"audits removed": 30}
    assert not (house.folder / "archive").exists()


@pytest.mark.parametrize("archive", [True, False])
async def test_dry(house: House, *, archive: bool) -> None:
    """A dry run reports what is due and changes nothing, also more than is allowed at once."""
    progress = await house.run({"days": 9.5, "archive": archive, "most": 1}, dry=True)
    assert progress[-1] == Progress(90, 90, {"audits due": 90}, progress[-1].position)
    assert len(await house.left()) == 100
    assert not (house.folder / "archive").exists()


async def test_filters_and_holds(house: House) -> None:
    """Only what fits the query goes, and never what is held."""
    await house.run({"days": 89.5, "query": {"username": {"$in": ["a", "b"]}}, "hold": {"topic": "99"}})
    gone = [n for n in range(90, 99) if n % 3 < 2]
    assert house.archived() == gone
    assert await house.left() == [n for n in range(100) if n not in gone]


async def test_too_much_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of a collection than allowed is not touched, unless somebody really wants it."""
    monkeypatch.setattr("maintenance.cleaner._FEW", 10)
    with pytest.raises(Permanent, match=r"30 % of mqtt_audits.*yes-really=true"):
        await house.run({"days": 69.5, "most": 29})
    assert len(await house.left()) == 100
    await house.run({"days": 69.5, "most": 29}, **{"yes-really": True})
    assert len(await house.left()) == 70


async def test_the_window(house: House) -> None:
    """Outside of its window a policy waits, unless somebody wants it now. NOW is 08:00 UTC."""
    policy = {"days": 69.5, "window": "09:00-07:30", "most": 50}
    await house.run(policy)
    assert len(await house.left()) == 100
    await house.run({**policy, "timezone": "Europe/Helsinki"})
    assert len(await house.left()) == 70
    await house.run({**policy, "days": 59.5}, **{"any-time": True})
    assert len(await house.left()) == 60


@pytest.mark.parametrize(
    ("window", "zone", "at", "is_open"),
    [
        ("", "UTC", "12:00", True),
        ("22:00-05:30", "UTC", "22:00", True),
        ("22:00-05:30", "UTC", "05:29", True),
        ("22:00-05:30", "UTC", "05:30", False),
        ("01:00-02:00", "UTC", "00:59", False),
        ("01:00-02:00", "Europe/Berlin", "00:30", True),
    ],
)
def test_windows(window: str, zone: str, at: str, *, is_open: bool) -> None:
    """A window that ends before it begins goes over midnight; it is of the policy's time zone."""
    moment = 1_767_225_600 + int(at[:2]) * 3600 + int(at[3:]) * 60
    assert Policy(collection="a.b", days=1, window=window, timezone=zone).open_at(moment) is is_open


async def test_the_budget(house: House) -> None:
    """When the time is used up, what was archived is removed, and the rest is for the next run."""
    progress = await house.run({"days": 9.5, "batch": 10, "most": 100, "budget": 1e-9, "rate": 1000})
    assert progress[-1].done == 0
    assert len(await house.left()) == 100
    await house.run({"days": 9.5, "batch": 10, "most": 100, "budget": 0.2, "rate": 100})
    left = await house.left()
    assert 10 < len(left) < 100
    assert sorted([*left, *house.archived()]) == list(range(100))


async def test_the_rate(house: House) -> None:
    """Not more a second than allowed."""
    begun = time.monotonic()
    await house.run({"days": 89.5, "batch": 2, "archive": False, "rate": 20})
    assert time.monotonic() - begun >= 0.4
    assert len(await house.left()) == 90


async def test_every_death(house: House) -> None:
    """Ended after any number of batches, the next life of the run comes to the same end."""
    policy = {"days": 69.5, "batch": 7, "most": 50}
    steps = len(await house.run(policy, dry=False))
    rows = [
        line
        for manifest in Folder(house.folder / "archive").list()
        for lines in Folder(house.folder / "archive").lines(manifest, 10)
        for line in lines.splitlines()
    ]
    await house.store.documents.restore("mqtt_audits", rows)
    for number, deaths in enumerate(range(1, steps)):
        run = Run(f"life{number}", "cleaner", Trigger.PERSON, 0, 0)
        settings = make_settings(
            house.folder, cleaner_policies={"audits": {"collection": "mqtt_audits", "time": "at", **policy}}
        )
        term = Term(house.lease, 3600, time.monotonic(), time.monotonic)
        batches = Cleaner().batches(Work(run, term, settings, house.store, now=lambda: NOW))
        last = Progress()
        for _ in range(deaths):
            last = await anext(batches)
        await batches.aclose()  # type: ignore[attr-defined]
        end = await house.live(policy, Run(run.id, "cleaner", Trigger.PERSON, 0, 0, progress=last))
        assert (end[-1].done, end[-1].total) == (30, 30)
        assert await house.left() == list(range(70))
        archive = Folder(house.folder / "archive").find("audits", run.id)
        assert archive is not None
        assert archive.count == 30
        for lines in Folder(house.folder / "archive").lines(archive, 10):
            await house.store.documents.restore("mqtt_audits", lines.splitlines())
        assert len(await house.left()) == 100


@pytest.mark.parametrize("removed", [0, 2, 4])
@pytest.mark.parametrize("remembered", [0, 3, 10_000])
async def test_what_changes_meanwhile(
    house: House, monkeypatch: pytest.MonkeyPatch, removed: int, remembered: int
) -> None:
    """What somebody rewrites once it is archived stays, however far the removal has come; all the rest goes."""
    monkeypatch.setattr("maintenance.cleaner._REMEMBERED", remembered)
    # There are six batches: not all of them are asked for before the change.
    monkeypatch.setattr("maintenance.cleaner._AT_ONCE", 2)
    policy = {"collection": "mqtt_audits", "time": "at", "days": 69.5, "batch": 5, "most": 50}
    settings = make_settings(house.folder, cleaner_policies={"audits": policy})
    term = Term(house.lease, 3600, time.monotonic(), time.monotonic)
    work = Work(Run("r", "cleaner", Trigger.PERSON, 0, 0), term, settings, house.store, now=lambda: NOW)
    last = await house.store.documents.due("mqtt_audits", Selection("at", int((NOW - 69.5 * DAY) * 1000)), "", 100)
    assert last is not None
    youngest = last.lines.splitlines()[-1]
    changed = youngest.replace(b'"no_rule"', b'"another"')
    progress = Progress()
    async for progress in Cleaner().batches(work):
        if progress.done == removed * 5 and progress.counts.get("audits archived") == 30 and changed:
            await house.store.documents.replace("mqtt_audits", [Replacement(youngest, changed)], house.lease)
            changed = b""
    assert not changed
    assert progress.counts == {"audits archived": 30, "audits removed": 29, "audits changed meanwhile": 1}
    assert (progress.done, progress.total) == (30, 30)
    assert await house.left() == sorted([*range(70), int(json.loads(youngest)["topic"])])
    assert house.archived() == list(range(70, 100))


async def test_one_policy_of_several(house: House) -> None:
    """One that is wrong does not hold up the others, and is named at the end; an unknown one is refused."""
    policies = {
        "audits": {"collection": "mqtt_audits", "time": "at", "days": 69.5, "most": 50},
        "bad": {"collection": "mqtt_audits", "time": "at", "days": 9.5, "most": 1},
        "zero": {"collection": "mqtt_audits", "days": 0},
    }
    settings = make_settings(house.folder, cleaner_policies=policies)
    assert list(policies_of(settings)) == ["dead-letters", "presence", "audits", "bad"]
    term = Term(house.lease, 3600, time.monotonic(), time.monotonic)

    async def run(**parameters: Any) -> None:
        run = Run("r", "cleaner", Trigger.PERSON, 0, 0, parameters)
        async for _ in Cleaner().batches(Work(run, term, settings, house.store, now=lambda: NOW)):
            pass

    with pytest.raises(Invalid, match="audits, bad, dead-letters, presence"):
        await run(policy="nobody")
    await run(policy="audits")
    assert len(await house.left()) == 70


def test_what_is_kept_where(tmp_path: Path) -> None:
    """With MongoDB somebody has to say where archives are kept; the platform's ages are those of its collections."""
    urls = {"mongo_url": "mongodb://h", "redis_url": "redis://h"}
    production = Settings.model_validate({"store": "production", **urls})
    assert {"sagas", "logs", "stats", "metrics", "sessions", "tokens", "dead-letters", "presence"} == set(
        policies_of(production)
    )
    for settings, root in (
        (make_settings(tmp_path), tmp_path / "archive"),
        (make_settings(tmp_path, cleaner_archive=tmp_path / "x"), tmp_path / "x"),
    ):
        target_of(settings).begin("audits", "run", 1).abandon()
        assert (root / "audits").is_dir()


@pytest.mark.parametrize(
    "policy",
    [
        {"collection": "thing.metrics", "days": 1},
        {"collection": "mqtt_audits", "days": 1, "time": "created_at"},
        {"collection": "mqtt_audits", "days": 1, "time": "at", "query": {"username": {"$gt": ""}}},
    ],
)
async def test_policies_that_the_store_cannot_follow(house: House, policy: dict[str, Any]) -> None:
    """They are refused before anything is removed."""
    settings = make_settings(
        house.folder, cleaner_policies={"x": policy, "audits": {"collection": "mqtt_audits", "time": "at", "days": 1}}
    )
    term = Term(house.lease, 3600, time.monotonic(), time.monotonic)
    work = Work(Run("r", "cleaner", Trigger.PERSON, 0, 0), term, settings, house.store, now=lambda: NOW)
    with pytest.raises(CompanionError):
        async for _ in Cleaner().batches(work):
            pass
    assert len(await house.left()) == 100


async def test_presence_of_long_gone_clients(house: House) -> None:
    """Without being asked to, it removes who disconnected long ago, and keeps who is there and who has just gone."""
    long_ago, lately = int((NOW - 91 * DAY) * 1000), int((NOW - DAY) * 1000)

    def events(client_id: str, began: int, *, ended: bool) -> list[BrokerEvent]:
        ends = {"connected_at": began, "disconnected_at": began + 1, "reason": "normal"}
        known = [BrokerEvent(f"c{client_id}", EventKind.CONNECTED, began, client_id, connected_at=began)]
        gone = [BrokerEvent(f"d{client_id}", EventKind.DISCONNECTED, began, client_id, **ends)]  # type: ignore[arg-type]
        return known + gone if ended else known

    await house.store.presence.take(
        events("gone", long_ago, ended=True)
        + events("there", long_ago, ended=False)
        + events("late", lately, ended=True)
    )
    run = Run("r", "cleaner", Trigger.PERSON, 0, 0, {"policy": "presence"})
    await house.live({"days": 36_500}, run)
    assert [one.client_id for one in await house.store.presence.list()] == ["late", "there"]
