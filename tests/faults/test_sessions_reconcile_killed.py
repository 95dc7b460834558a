"""The reconciler of sessions in a real process that is killed (`kill -9`) before and after every single step."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from companion.core.runs import RunState
from companion.stores.embedded import EmbeddedStore
from maintenance.records import request_of
from maintenance.sessions_reconcile import SessionsReconcile
from tests.support.emqx import KEY, SECRET, Emqx
from tests.support.entities import account

ROOT: Final = Path(__file__).parents[2]
BAD: Final = tuple(f"bad{number}" for number in range(5))
MOST_STEPS: Final = 100

PROGRAM = '''
"""Runs what waits until it is done; killed at the step whose number is given (0: never)."""
import asyncio, functools, json, os, signal, sys

from companion.emqx_api import EmqxApi
from companion.metrics import Metrics
from companion.settings import Settings
from companion.stores.embedded import EmbeddedStore
from companion.stores.embedded.audits import EmbeddedAudits
from companion.stores.embedded.leases import EmbeddedLeases
from companion.stores.embedded.runs import EmbeddedRuns
from maintenance import engine, sessions_reconcile
from maintenance.catalogue import load_jobs

settings, killed_at = Settings.model_validate(json.loads(sys.argv[1])), int(sys.argv[2])
steps = 0

def step():
    global steps
    steps += 1
    if steps == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)

def around(owner, name):
    real = getattr(owner, name)
    @functools.wraps(real)
    async def wrapped(*args, **more):
        step()
        result = await real(*args, **more)
        step()
        return result
    setattr(owner, name, wrapped)

for owner, names in (
    (EmbeddedRuns, ("begin", "advance", "end")),
    (EmbeddedLeases, ("acquire", "release")),
    (EmbeddedAudits, ("append",)),
    (EmqxApi, ("_once",)),
):
    for name in names:
        around(owner, name)

sessions_reconcile.SessionsReconcile.lease_seconds = 0.4
sessions_reconcile._KICKS = 2
engine._ABANDONED_SECONDS = engine._LOOK_SECONDS = 0.05

async def main():
    async with EmbeddedStore.open(settings.data_dir) as store:
        jobs = load_jobs()
        one = engine.Engine(
            jobs=jobs, served=frozenset({"sessions-reconcile"}), schedules={n: j.schedule for n, j in jobs.items()},
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


async def life(data: Path, url: str, killed_at: int) -> int | None:
    """Live once; return how many steps there were, or None when it was killed."""
    settings = {
        "data_dir": str(data),
        "emqx_url": url,
        "emqx_api_key": KEY,
        "emqx_api_secret": SECRET,
        "emqx_timeout": 20.0,
        "reconciler_most": 100,
        "reconciler_rate": 100_000,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        json.dumps(settings),
        str(killed_at),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0, errors.decode()
    return int(output.split()[-1])


async def fill(data: Path, emqx: Emqx) -> str:
    """Connect some of whom not all may be, and ask for a run."""
    for name in BAD:
        emqx.connect(name, "nobody")
    emqx.connect("good", "alice")
    async with EmbeddedStore.open(data) as store:
        await store.accounts.add([account("alice")])
        run = request_of(SessionsReconcile(), {}, int(time.time() * 1000))
        await store.runs.add(run)
        return run.id


async def check(data: Path, emqx: Emqx, run_id: str) -> None:
    """Exactly those who may not be there were kicked, each once, the run is done, and hardly anybody is missing in the audit."""
    assert list(emqx.clients) == ["good"]
    assert sorted(emqx.kicked) == sorted(BAD)
    async with EmbeddedStore.open(data) as store:
        run = await store.runs.get(run_id)
        audited = {one.client_id for one in await store.audits.latest(100)}
    assert run is not None
    assert run.state is RunState.DONE, run.error
    # Who was kicked in the moment of the kill is noted by EMQX only.
    assert len(set(BAD) - audited) <= 2
    assert audited <= set(BAD)


@pytest.mark.timeout(280)
async def test_killed_at_every_step(tmp_path: Path) -> None:
    """Killed before and after each of its steps, in turn: the next life comes to the same end as an undisturbed run."""
    emqx = Emqx()
    async with emqx.serving() as url:
        run_id = await fill(tmp_path / "undisturbed", emqx)
        steps = await life(tmp_path / "undisturbed", url, 0)
        await check(tmp_path / "undisturbed", emqx, run_id)
    assert steps is not None
    assert 20 < steps < MOST_STEPS

    async def killed(at: int) -> None:
        emqx, data = Emqx(), tmp_path / f"{at}"
        async with emqx.serving() as url:
            run_id = await fill(data, emqx)
            assert await life(data, url, at) is None
            await life(data, url, 0)
            await check(data, emqx, run_id)

    waiting = iter(range(1, steps + 1))

    async def some() -> None:
        for at in waiting:
            await killed(at)

    await asyncio.gather(*(some() for _ in range(3)))
