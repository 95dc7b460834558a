"""The auditor in a real process that is killed (`kill -9`) before and after every single step, one after the other."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from companion.core.chain import Chain
from companion.core.runs import RunState
from companion.core.seals import Report
from companion.stores.embedded import EmbeddedStore
from maintenance import roots
from maintenance.audit_check import check_all, read_seals
from maintenance.auditor import Auditor
from maintenance.records import request_of
from tests.support.entities import audit

ROOT: Final = Path(__file__).parents[2]
CHAINS, RECORDS = 3, 12

PROGRAM = '''
"""Runs what waits until it is done; killed at the step whose number is given (0: never)."""
import asyncio, functools, inspect, os, signal, sys
from pathlib import Path

from companion.metrics import Metrics
from companion.settings import Settings
from companion.stores.embedded import EmbeddedStore
from companion.stores.embedded.audits import EmbeddedAudits
from companion.stores.embedded.leases import EmbeddedLeases
from companion.stores.embedded.runs import EmbeddedRuns
from maintenance import audit_check, auditor, engine, roots
from maintenance.catalogue import load_jobs

data, killed_at = Path(sys.argv[1]), int(sys.argv[2])
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

for owner, names in (
    (EmbeddedAudits, ("chains", "entries", "seals", "add_seal", "forget_salts")),
    (EmbeddedRuns, ("begin", "advance", "end")),
    (EmbeddedLeases, ("acquire", "release")),
    (roots, ("append",)),
    (os, ("fsync",)),
):
    for name in names:
        around(owner, name)

auditor.Auditor.lease_seconds = 0.4
audit_check._ENTRIES = 5
engine._ABANDONED_SECONDS = engine._LOOK_SECONDS = 0.05
engine._NOTE_SECONDS = 0.0

async def main():
    settings = Settings.model_validate({"data_dir": str(data)})
    async with EmbeddedStore.open(data) as store:
        jobs = load_jobs()
        one = engine.Engine(
            jobs=jobs, served=frozenset({"auditor"}), schedules={n: j.schedule for n, j in jobs.items()},
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


async def life(data: Path, killed_at: int) -> int | None:
    """Live once; return how many steps there were, or None when it was killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(data), str(killed_at)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        output, errors = await process.communicate()
    if process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0, errors.decode()
    return int(output.split()[-1])


async def fill(data: Path) -> str:
    """Store the chains of some writers, and ask for a run."""
    now = int(time.time() * 1000)
    async with EmbeddedStore.open(data) as store:
        for _ in range(CHAINS):
            await store.audits.keep(Chain().seal([audit(now + number) for number in range(RECORDS)]))
        run = request_of(Auditor(), {}, now)
        await store.runs.add(run)
        return run.id


async def check(data: Path, run_id: str) -> None:
    """There is one seal, over everything, whose root is in the file once, and the run is done."""
    async with EmbeddedStore.open(data) as store:
        report = Report()
        path = data / "audit-roots.jsonl"
        sealed = await read_seals(store.audits, report, roots.read(path))
        async for _ in check_all(store.audits, report, sealed, cut=0, now=int(time.time() * 1000)):
            pass
        run = await store.runs.get(run_id)
    assert report.counts() == {"checked": CHAINS * RECORDS}
    assert sealed.last is not None
    assert (sealed.last.number, sealed.last.run, len(sealed.last.segments)) == (1, run_id, CHAINS)
    assert [json.loads(line)["root"] for line in await asyncio.to_thread(lines_of, path)] == [sealed.last.root]
    assert run is not None
    assert run.state is RunState.DONE, run.error


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.timeout(580)
async def test_the_auditor_killed_at_every_step(tmp_path: Path) -> None:
    """Killed before and after each of its steps, in turn: the next life comes to the same end as an undisturbed run."""
    undisturbed = tmp_path / "undisturbed"
    run_id = await fill(undisturbed)
    steps = await life(undisturbed, 0)
    assert steps is not None
    assert 30 < steps < 200
    await check(undisturbed, run_id)
    waiting = iter(range(1, steps + 1))

    async def some() -> None:
        for at in waiting:
            data = tmp_path / f"{at}"
            run_id = await fill(data)
            # How often progress is noted depends on the pace: a run may have fewer steps.
            await life(data, at)
            await life(data, 0)
            await check(data, run_id)

    await asyncio.gather(*(some() for _ in range(3)))
