"""`companion archive`, after a real run of the cleaner: list, verify, restore."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from companion.core.model import Audit
from companion.stores.embedded import EmbeddedStore
from tests.broker.test_jobs_cli import Shell, environ, shell
from tests.support.s3 import PREFIX, BucketOfTest, new_bucket

__all__ = ["environ", "shell"]

DAY = 86_400_000
POLICY = {"audits": {"collection": "mqtt_audits", "time": "at", "days": 30, "most": 100}}


@pytest.fixture(params=["folder", "s3"])
def bucket(request: pytest.FixtureRequest, environ: dict[str, str]) -> BucketOfTest | None:
    """Let the cleaner have a policy, a bucket or none, and run when it is asked only."""
    environ["COMPANION_CLEANER_POLICIES"] = json.dumps(POLICY)
    environ["COMPANION_JOBS_SCHEDULES"] = json.dumps({"cleaner": {}})
    if request.param == "folder":
        return None
    bucket = new_bucket()
    environ |= bucket.environ()
    return bucket


def spoil(data: Path, bucket: BucketOfTest | None) -> None:
    """Cut off the end of the archive."""
    if bucket is None:
        (file,) = (data / "archive").glob("audits/*.zst")
        file.write_bytes(file.read_bytes()[:-1])
    else:
        (name,) = [name for name in bucket.names() if name.endswith(".zst")]
        bucket.write(name, bucket.read(name)[:-1])


async def test_there_and_back(tmp_path: Path, bucket: BucketOfTest | None, shell: Shell) -> None:
    """What the cleaner took away is listed, verified and brought back as it was; damage is found and brings back nothing."""
    now = int(time.time() * 1000)
    async with EmbeddedStore.open(tmp_path / "data") as store:
        await store.audits.append([Audit(now - n * DAY, "auth", "deny", "no_rule", topic=f"{n}") for n in range(40)])
        before = sorted(await store.audits.latest(100), key=lambda one: one.at)
        assert "is done (dry): audits due 10" in await shell("jobs", "run", "cleaner", "--dry-run")
        assert "is done: audits archived 10, audits removed 10" in await shell("jobs", "run", "cleaner")
        assert len(await store.audits.latest(100)) == 30
        (one,) = json.loads(await shell("archive", "list", "--json"))
        assert (one["collection"], one["count"]) == ("mqtt_audits", 10)
        assert one["name"] in await shell("archive", "list")
        assert f"{one['name']}: 10 documents, whole" in await shell("archive", "verify")
        assert "10 of 10 documents are back in mqtt_audits" in await shell("archive", "restore", one["name"])
        assert "0 of 10 documents are back in mqtt_audits, the others were there" in await shell(
            "archive", "restore", one["name"]
        )
        assert sorted(await store.audits.latest(100), key=lambda one: one.at) == before
        if bucket is not None:
            assert not (tmp_path / "data" / "archive").exists()
            assert one["name"] in await shell("archive", "list", "--folder", str(bucket.place))
        spoil(tmp_path / "data", bucket)
        assert "should be" in await shell("archive", "restore", one["name"], code=1)
        assert "1 of 1 archives are not whole" in await shell("archive", "verify", code=1)
        assert "companion archive list" in await shell("archive", "restore", "audits/nobody", code=1)
        if bucket is not None:
            bucket.client.delete_objects(
                Bucket=bucket.name, Delete={"Objects": [{"Key": f"{PREFIX}/{name}"} for name in bucket.names()]}
            )
            bucket.client.delete_bucket(Bucket=bucket.name)
            assert "a bucket that exists" in await shell("archive", "list", code=1)
            assert "a bucket that exists" in await shell("jobs", "run", "cleaner", code=1)
            assert len(await store.audits.latest(100)) == 40
            assert "s3://bucket/prefix" in await shell("archive", "list", "--folder", "s3://", code=1)
