"""`companion archive`, after a real run of the cleaner: list, verify, restore."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from companion.core.model import Audit
from companion.stores.embedded import EmbeddedStore
from tests.broker.test_jobs_cli import Shell, environ, shell

__all__ = ["environ", "shell"]

DAY = 86_400_000
POLICY = {"audits": {"collection": "mqtt_audits", "time": "at", "days": 30, "most": 100}}


@pytest.fixture
def settings(environ: dict[str, str]) -> dict[str, str]:
    """Let the cleaner have a policy, and run when it is asked only: some test will run at the time of its schedule."""
    environ["COMPANION_CLEANER_POLICIES"] = json.dumps(POLICY)
    environ["COMPANION_JOBS_SCHEDULES"] = json.dumps({"cleaner": {}})
    return environ


async def test_there_and_back(tmp_path: Path, settings: dict[str, str], shell: Shell) -> None:
    """What the cleaner took away is listed, verified and brought back as it was; damage is found and brings back nothing."""
    del settings
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
        (file,) = (tmp_path / "data" / "archive").glob("audits/*.zst")
        file.write_bytes(file.read_bytes()[:-1])
        assert "should be" in await shell("archive", "restore", one["name"], code=1)
        assert "1 of 1 archives are not whole" in await shell("archive", "verify", code=1)
        assert "companion archive list" in await shell("archive", "restore", "audits/nobody", code=1)
