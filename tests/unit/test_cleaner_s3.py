"""The cleaner with its archives in S3-compatible storage: nothing goes before it is safely there."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from companion.core.errors import CompanionError, Permanent, Transient
from companion.core.model import Audit
from companion.core.ports import Lease
from companion.core.runs import Progress, Run, Trigger
from companion.leadership import Term
from companion.stores.embedded import EmbeddedStore
from maintenance.archive import s3
from maintenance.archive.bucket import Bucket
from maintenance.archive.manifest import Manifest
from maintenance.archive.target import Target, target_of
from maintenance.cleaner import Cleaner
from maintenance.job import Work
from tests.support.proxy import proxied
from tests.support.s3 import PREFIX, SECRET, BucketOfTest, new_bucket, s3_server

DAY = 86_400
NOW = 1_800_000_000.0
POLICY = {"collection": "mqtt_audits", "time": "at", "days": 69.5, "batch": 10, "most": 50}


def lines_of(target: Target, manifest: Manifest) -> list[bytes]:
    return b"".join(target.lines(manifest, 10)).splitlines()


@dataclass
class House:
    """A store with a hundred audit records, one a day, and a bucket for what is old of them: thirty."""

    folder: Path
    store: EmbeddedStore
    bucket: BucketOfTest
    targets: dict[str, Target] = field(default_factory=dict)

    async def batches(
        self, fence: int = 1, progress: Progress | None = None, **changes: Any
    ) -> AsyncIterator[Progress]:
        settings = self.bucket.settings(self.folder, cleaner_policies={"audits": POLICY}, **changes)
        lease = await self.store.leases.acquire("job:cleaner", f"life {fence}", 3600)
        assert isinstance(lease, Lease)
        run = Run("run", "cleaner", Trigger.PERSON, 0, 0, progress=progress or Progress())
        term = Term(lease, 3600, time.monotonic(), time.monotonic)
        try:
            async for one in Cleaner().batches(Work(run, term, settings, self.store, now=lambda: NOW)):
                yield one
        finally:
            await self.store.leases.release(lease)

    async def live(self, **changes: Any) -> list[Progress]:
        return [one async for one in self.batches(**changes)]

    @property
    def target(self) -> Target:
        if self.bucket.name not in self.targets:
            self.targets[self.bucket.name] = target_of(self.bucket.settings(self.folder))
        return self.targets[self.bucket.name]

    async def left(self) -> list[int]:
        return sorted(int(one.topic) for one in await self.store.audits.latest(1000))

    async def archived(self) -> list[int]:
        def read() -> list[int]:
            found = self.target.find("audits", "run")
            if found is None:
                return []
            self.target.verify(found)
            return sorted(int(json.loads(line)["topic"]) for line in lines_of(self.target, found))

        return await asyncio.to_thread(read)


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(s3, "_PART_BYTES", 150)
    async with EmbeddedStore.open(tmp_path) as store:
        await store.audits.append(
            [Audit(int((NOW - n * DAY) * 1000), "auth", "deny", "no_rule", topic=f"{n}") for n in range(100)]
        )
        yield House(tmp_path, store, new_bucket())


ALL = list(range(100))
OLD, YOUNG = ALL[70:], ALL[:70]


async def test_archived_and_removed(house: House) -> None:
    """What is old is in the storage and nowhere else, and comes back as it was."""
    before = sorted(await house.store.audits.latest(1000), key=lambda one: one.at)
    progress = await house.live()
    assert (progress[-1].done, progress[-1].counts) == (30, {"audits archived": 30, "audits removed": 30})
    assert (await house.left(), await house.archived()) == (YOUNG, OLD)
    assert house.bucket.uploads() == []
    assert not (house.folder / "archive").exists()
    manifest = house.target.find("audits", "run")
    assert manifest is not None
    lines = await asyncio.to_thread(lines_of, house.target, manifest)
    assert await house.store.documents.restore("mqtt_audits", lines) == 30
    assert await house.store.documents.restore("mqtt_audits", lines) == 0
    assert sorted(await house.store.audits.latest(1000), key=lambda one: one.at) == before


async def test_what_is_logged(house: House, logged: io.StringIO) -> None:
    """The client's own lines, with the documents in them, are not written at any level; nor are secrets."""
    logging.getLogger("maintenance").debug("most is said")
    await house.live()
    assert "most is said" in logged.getvalue()
    for what in (SECRET, "no_rule", "AWS4-HMAC", "botocore"):
        assert what not in logged.getvalue()


async def test_every_death(house: House) -> None:
    """Ended after any number of batches, the next life of the run comes to the same end."""
    steps = len(await house.live())
    for deaths in range(1, steps):
        manifest = house.target.find("audits", "run")
        assert manifest is not None
        await house.store.documents.restore("mqtt_audits", lines_of(house.target, manifest))
        house.bucket = new_bucket()
        batches = house.batches()
        last = Progress()
        for _ in range(deaths):
            last = await anext(batches)
        await batches.aclose()  # type: ignore[attr-defined]
        end = await house.live(progress=last)
        assert (end[-1].done, end[-1].total) == (30, 30)
        assert (await house.left(), await house.archived()) == (YOUNG, OLD)


async def test_storage_that_goes_away(house: House) -> None:
    """At every request in turn: the run fails for now, nothing is removed before its archive is whole, the next one does it."""
    real, calls = Bucket._asked, 0
    failing_at = 0
    async with proxied(s3_server().port) as proxy:
        changes = {"s3_endpoint": f"http://127.0.0.1:{proxy.port}", "s3_attempts": 1, "s3_timeout": 20}
        loop = asyncio.get_running_loop()

        def counted(self: Bucket, key: str) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing_at:
                asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result(30)
            return real(self, key)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Bucket, "_asked", counted)
            await house.live(**changes)
            total = calls
            assert total > 8
            for number in range(1, total + 1):
                failing_at = 0
                manifest = house.target.find("audits", "run")
                assert manifest is not None
                await house.store.documents.restore("mqtt_audits", lines_of(house.target, manifest))
                house.bucket = new_bucket()
                calls, failing_at = 0, number
                with pytest.raises(Transient):
                    await house.live(**changes)
                await proxy.start()
                left, archived = await house.left(), await house.archived()
                assert left == ALL or archived == OLD
                assert sorted({*left, *archived}) == ALL
                failing_at = 0
                await house.live(**changes)
                assert (await house.left(), await house.archived()) == (YOUNG, OLD)


@pytest.mark.parametrize("spoiled", [".jsonl.zst", ".json"])
async def test_storage_that_keeps_something_else(house: House, monkeypatch: pytest.MonkeyPatch, spoiled: str) -> None:
    """When the archive or its manifest is not there as it was written, nothing is removed."""
    bucket = house.bucket

    def spoil(key: str) -> None:
        if key.endswith(spoiled):
            name = key.removeprefix(f"{PREFIX}/")
            bucket.write(name, bucket.read(name)[:-1] + b"?")

    put, complete = Bucket.put, Bucket.complete

    def put_and_spoil(self: Bucket, key: str, content: bytes, kind: str) -> None:
        put(self, key, content, kind)
        spoil(key)

    def complete_and_spoil(self: Bucket, key: str, upload: str, tags: Any) -> None:
        complete(self, key, upload, tags)
        spoil(key)

    monkeypatch.setattr(Bucket, "put", put_and_spoil)
    monkeypatch.setattr(Bucket, "complete", complete_and_spoil)
    with pytest.raises(Permanent, match=r"s3://.*run\+\d+\.json"):
        await house.live()
    assert await house.left() == ALL


@pytest.mark.parametrize("what", ["no bucket", "nobody there"])
async def test_storage_that_will_not_do(house: House, what: str) -> None:
    """The run fails with a clear error, and nothing is removed."""
    changes: dict[str, Any] = {}
    if what == "no bucket":
        house.bucket.client.delete_bucket(Bucket=house.bucket.name)
    else:
        changes = {"s3_endpoint": "http://127.0.0.1:1", "s3_attempts": 1}
    with pytest.raises(CompanionError, match=f"s3://{house.bucket.name}") as problem:
        await house.live(**changes)
    assert isinstance(problem.value, Permanent if what == "no bucket" else Transient)
    assert await house.left() == ALL
