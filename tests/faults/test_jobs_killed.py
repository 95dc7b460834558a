"""Jobs in a real process that is killed (`kill -9`) before and after every single step, one after the other."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest

from companion.core.model import Audit
from companion.core.runs import RunState
from companion.stores.embedded import EmbeddedStore
from maintenance.archive.folder import Folder
from maintenance.archive.target import Target, target_of
from maintenance.cleaner import Cleaner
from maintenance.records import request_of
from tests.support.s3 import KEY, SECRET, new_bucket

ROOT: Final = Path(__file__).parents[2]
DAY: Final = 86_400_000
OLD, YOUNG = 20, 10
MOST_STEPS: Final = 400

PROGRAM = '''
"""Runs what waits until it is done; killed at the step whose number is given (0: never)."""
import asyncio, functools, inspect, json, os, signal, sys, time
from pathlib import Path

from companion.metrics import Metrics
from companion.settings import Settings
from companion.stores.embedded import EmbeddedStore
from companion.stores.embedded.documents import EmbeddedDocuments
from companion.stores.embedded.leases import EmbeddedLeases
from companion.stores.embedded.runs import EmbeddedRuns
from maintenance import cleaner, engine
from maintenance.archive import bucket, folder, s3
from maintenance.catalogue import load_jobs

data, killed_at, storage = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
steps = 0

def step():
    global steps
    steps += 1
    if steps == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)

def around(owner, name):
    real = getattr(owner, name)
    if inspect.iscoroutinefunction(real):
        @functools.wraps(real)
        async def wrapped(*args, **more):
            step()
            result = await real(*args, **more)
            step()
            return result
    else:
        @functools.wraps(real)
        def wrapped(*args, **more):
            step()
            result = real(*args, **more)
            step()
            return result
    setattr(owner, name, wrapped)

in_a_folder = (
    (EmbeddedDocuments, ("due", "remove")),
    (EmbeddedRuns, ("begin", "advance", "end")),
    (EmbeddedLeases, ("acquire", "release")),
    (folder.Writing, ("add",)),
    (folder, ("_sync", "_compare", "_sync_folder")),
    (Path, ("replace", "mkdir")),
)
in_storage = (
    (EmbeddedDocuments, ("remove",)),
    (bucket.Bucket, ("begin", "part", "complete", "put")),
)
for owner, names in in_storage if storage else in_a_folder:
    for name in names:
        around(owner, name)

cleaner.Cleaner.lease_seconds = 0.4
s3._PART_BYTES = 80
engine._ABANDONED_SECONDS = engine._LOOK_SECONDS = 0.05

async def main():
    policy = {"collection": "mqtt_audits", "time": "at", "days": 30, "batch": 8, "most": 100}
    settings = Settings.model_validate({"data_dir": str(data), "cleaner_policies": {"audits": policy}, **storage})
    async with EmbeddedStore.open(data) as store:
        jobs = load_jobs()
        one = engine.Engine(
            jobs=jobs, served=frozenset({"cleaner"}), schedules={n: j.schedule for n, j in jobs.items()},
            settings=settings, store=store, metrics=Metrics(), holder=f"life {killed_at}",
        )
        task = asyncio.create_task(one.run())
        while not all(run.ended for run in await store.runs.list()):
            await asyncio.sleep(0.01)
        await one.finish(5)
        await task

asyncio.run(main())
print(steps)
'''


async def life(data: Path, killed_at: int, storage: Mapping[str, object] = MappingProxyType({})) -> int | None:
    """Live once, with the archives in a folder or in storage; return how many steps there were, or None when it was killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(data),
        str(killed_at),
        json.dumps(dict(storage)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    if process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0, errors.decode()
    return int(output.split()[-1])


async def fill(data: Path) -> str:
    """Store records of which some are due, and ask for a run."""
    now = int(time.time() * 1000)
    async with EmbeddedStore.open(data) as store:
        ages = [*range(100, 100 + OLD), *range(YOUNG)]
        await store.audits.append([Audit(now - age * DAY, "auth", "deny", "no_rule", topic=f"{age}") for age in ages])
        run = request_of(Cleaner(), {}, now)
        await store.runs.add(run)
        return run.id


def unfinished(data: Path) -> list[Path]:
    return list(data.glob("archive/**/*.part"))


async def check(data: Path, run_id: str, target: Target) -> None:
    """Every record is in exactly one of the collection and a verified archive, and the run is done, with what it did."""
    async with EmbeddedStore.open(data) as store:
        left = sorted(int(one.topic) for one in await store.audits.latest(1000))
        run = await store.runs.get(run_id)
    manifest = target.find("audits", run_id)
    assert manifest is not None
    target.verify(manifest)
    archived = sorted(int(json.loads(line)["topic"]) for line in b"".join(target.lines(manifest, 8)).splitlines())
    assert left == list(range(YOUNG))
    assert archived == list(range(100, 100 + OLD))
    assert run is not None
    assert (run.state, run.progress.done, run.progress.total) == (RunState.DONE, OLD, OLD)


@pytest.mark.timeout(280)
async def test_the_cleaner_killed_at_every_step(tmp_path: Path) -> None:
    """Killed before and after each of its steps, in turn: the next life comes to the same end as an undisturbed run."""
    undisturbed = tmp_path / "undisturbed"
    run_id = await fill(undisturbed)
    steps = await life(undisturbed, 0)
    assert steps is not None
    assert 40 < steps < MOST_STEPS
    await check(undisturbed, run_id, Folder(undisturbed / "archive"))
    assert not unfinished(undisturbed)

    async def killed(at: int) -> None:
        data = tmp_path / f"{at}"
        run_id = await fill(data)
        assert await life(data, at) is None
        await life(data, 0)
        await check(data, run_id, Folder(data / "archive"))
        assert not unfinished(data)

    await at_every_step(steps, killed)


@pytest.mark.timeout(280)
async def test_the_cleaner_killed_at_every_step_with_storage(tmp_path: Path) -> None:
    """The same with its archives in S3-compatible storage: around every request that writes, and around the removal."""

    async def lived(data: Path, at: int) -> int | None:
        bucket = new_bucket()
        changes = {"cleaner_archive": str(bucket.place), "s3_access_key": KEY, "s3_secret_key": SECRET}
        storage = {**changes, "s3_endpoint": bucket.endpoint}
        run_id = await fill(data)
        steps = await life(data, at, storage)
        if at:
            assert steps is None
            await life(data, 0, storage)
        await check(data, run_id, target_of(bucket.settings(data)))
        assert bucket.uploads() == []
        return steps

    steps = await lived(tmp_path / "undisturbed", 0)
    assert steps is not None
    assert 12 < steps < MOST_STEPS

    async def killed(at: int) -> None:
        await lived(tmp_path / f"{at}", at)

    await at_every_step(steps, killed)


async def at_every_step(steps: int, killed: Callable[[int], Awaitable[None]]) -> None:
    waiting = iter(range(1, steps + 1))

    async def some() -> None:
        for at in waiting:
            await killed(at)

    await asyncio.gather(*(some() for _ in range(4)))
