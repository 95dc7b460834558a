"""The cleaner, killed (`kill -9`) before and after every single step, one after the other, with its archives in either place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from companion.core.model import Audit
from companion.stores.embedded import EmbeddedStore
from maintenance.archive.folder import Folder
from maintenance.archive.target import Target, target_of
from maintenance.cleaner import Cleaner
from tests.conftest import Note
from tests.faults.killing import PARALLEL, Folders, kill_at_every_step
from tests.support.s3 import KEY, SECRET, BucketOfTest, new_bucket

DAY: Final = 86_400_000
OLD, YOUNG = 20, 10
POLICY: Final = {"collection": "mqtt_audits", "time": "at", "days": 30, "batch": 8, "most": 100}


class Cleaning(Folders):
    """Records of which some are due, with their archive in the data folder."""

    async def prepare(self) -> Mapping[str, Any]:
        now = self.begin()
        async with EmbeddedStore.open(self.data) as store:
            ages = [*range(100, 100 + OLD), *range(YOUNG)]
            await store.audits.append(
                [Audit(now - age * DAY, "auth", "deny", "no_rule", topic=f"{age}") for age in ages]
            )
            await self.ask(store, Cleaner(), now)
        return {"data_dir": self.data, "cleaner_policies": {"audits": POLICY}}

    async def check(self, *, undisturbed: bool) -> None:
        """Every record is in exactly one of the collection and a verified archive, and the run is done, with what it did."""
        del undisturbed
        async with EmbeddedStore.open(self.data) as store:
            left = sorted(int(one.topic) for one in await store.audits.latest(1000))
            run = await self.done(store)
        target = self.target()
        manifest = target.find("audits", self.run_id)
        assert manifest is not None
        target.verify(manifest)
        archived = sorted(int(json.loads(line)["topic"]) for line in b"".join(target.lines(manifest, 8)).splitlines())
        assert left == list(range(YOUNG))
        assert archived == list(range(100, 100 + OLD))
        assert (run.progress.done, run.progress.total) == (OLD, OLD)
        assert self.unfinished() == []

    def target(self) -> Target:
        return Folder(self.data / "archive")

    def unfinished(self) -> list[str]:
        return [str(one) for one in self.data.glob("archive/**/*.part")]


class CleaningIntoStorage(Cleaning):
    """The same with its archive in S3-compatible storage, a bucket for each time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._bucket: BucketOfTest = new_bucket()

    async def prepare(self) -> Mapping[str, Any]:
        self._bucket = bucket = new_bucket()
        return {
            **await super().prepare(),
            "cleaner_archive": str(bucket.place),
            "s3_endpoint": bucket.endpoint,
            "s3_access_key": KEY,
            "s3_secret_key": SECRET,
        }

    def target(self) -> Target:
        return target_of(self._bucket.settings(self.data))

    def unfinished(self) -> list[str]:
        return self._bucket.uploads()


@pytest.mark.timeout(280)
async def test_the_cleaner(tmp_path: Path, note: Note) -> None:
    """Killed before and after each of its steps, in turn: the next life comes to the same end as an undisturbed run."""
    cases = [Cleaning(tmp_path / f"{n}") for n in range(PARALLEL)]
    steps, _ = await kill_at_every_step(tmp_path, note, "cleaner-folder", cases)
    assert steps > 40


@pytest.mark.timeout(280)
async def test_the_cleaner_with_storage(tmp_path: Path, note: Note) -> None:
    """The same with its archives in S3-compatible storage: around every request that writes, and around the removal."""
    cases = [CleaningIntoStorage(tmp_path / f"{n}") for n in range(PARALLEL)]
    # Where the storage is slow a lease may end meanwhile, and the run goes on in other steps.
    steps, kills = await kill_at_every_step(tmp_path, note, "cleaner-storage", cases, exact=False)
    assert steps > 12
    assert kills > steps / 2
