"""Two processes over MongoDB and Redis that could both kick: one that is killed at it is followed by the other."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from companion.core.revocations import Revocation, Step, Target, revocation_of
from companion.settings import Settings
from companion.stores.opening import open_store
from tests.support import mongo, production, redis
from tests.support.emqx import KEY, SECRET, Emqx
from tests.support.eventually import eventually
from tests.support.programs import Program, program

LEASE: Final = 1.0

PROGRAM: Final = '''
"""One replica; says `leading` when it leads."""
import asyncio, json, sys

from companion.metrics import Metrics
from companion.settings import Settings
from companion.stores.opening import open_store
from maintenance import revoker
from maintenance.service import running_maintenance

settings = Settings.model_validate(json.loads(sys.argv[1]))
real = revoker.Revoker.run

async def run(self, term):
    print("leading", flush=True)
    await real(self, term)

revoker.Revoker.run = run

async def main():
    async with open_store(settings) as store, running_maintenance(settings, store, Metrics()):
        await asyncio.Event().wait()

asyncio.run(main())
'''


@pytest.fixture
async def emqx() -> AsyncIterator[Emqx]:
    server = Emqx()
    async with server.serving():
        yield server


async def led_by(*replicas: Program) -> tuple[Program, Program]:
    """Return the one that leads, and the other."""
    lines = {asyncio.ensure_future(one.line()): one for one in replicas}
    done, waiting = await asyncio.wait(lines, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    leader = lines[done.pop()]
    return leader, next(one for one in replicas if one is not leader)


async def test_one_follows_the_other(tmp_path: Path, emqx: Emqx) -> None:
    """Killed while EMQX is asked who is connected: the other takes over when the lease has run out, and goes on where it stands."""
    values: dict[str, Any] = {
        **production.settings_of(mongo.shared_url(), redis.shared_server(redis.debian_redis()).url),
        "data_dir": str(tmp_path),
        "hooks_deadline": 20.0,
        "mongo_timeout": 10.0,
        "redis_timeout": 5.0,
        "emqx_url": emqx.url,
        "emqx_api_key": KEY,
        "emqx_api_secret": SECRET,
        "emqx_timeout": 60.0,
        "revocation_lease": LEASE,
        "revocation_settle": 0.1,
        "jobs_mode": "none",
    }
    for number in range(3):
        emqx.connect(f"a{number}", "alice")
    emqx.connect("b", "bob")
    asked = asyncio.Event()

    def held_up(one: Any) -> float | None:
        if one.method != "GET" or asked.is_set():
            return None
        asked.set()
        return 15.0

    emqx.fault = held_up
    arguments = json.dumps(values)
    async with (
        open_store(Settings.model_validate(values)) as store,
        program(PROGRAM, arguments) as one,
        program(PROGRAM, arguments) as two,
    ):
        leader, _ = await led_by(one, two)
        revocation = revocation_of(Target.ACCOUNT, "alice", time.time(), ban=60)
        assert await store.revocations.add(revocation)
        async with asyncio.timeout(30):
            await asked.wait()
        before = await store.revocations.get(revocation.id)
        assert before is not None
        assert [step.step for step in before.steps] == [Step.TOLD, Step.CACHES, Step.BAN]
        leader.kill()

        async def done() -> Revocation | None:
            found = await store.revocations.get(revocation.id)
            return found if found is not None and not found.waiting else None

        record = await eventually(done, 60, "the other has done it")
    assert record.fence > before.fence
    assert record.steps[:3] == before.steps
    assert list(emqx.clients) == ["b"]
    assert emqx.lines.count("POST /banned") == 1
