"""A revocation in a real process that is killed (`kill -9`) before and after every single step, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from companion.core.revocations import Done, Revocation, Step, Target, revocation_of
from companion.stores.embedded import EmbeddedStore
from tests.support.emqx import KEY, SECRET, Emqx
from tests.support.entities import session

ROOT: Final = Path(__file__).parents[2]
MINE: Final = ("a1", "a2", "a3")
MOST_STEPS: Final = 200

PROGRAM = '''
"""Does what is left to do about revocations until nothing is; killed at the step whose number is given (0: never)."""
import asyncio, functools, json, os, signal, sys
from pathlib import Path

from companion.emqx_api import EmqxApi
from companion.metrics import Metrics
from companion.settings import Settings
from companion.stores.embedded import EmbeddedStore
from companion.stores.embedded.audits import EmbeddedAudits
from companion.stores.embedded.leases import EmbeddedLeases
from companion.stores.embedded.notices import EmbeddedNotices
from companion.stores.embedded.revocations import EmbeddedRevocations
from companion.background import background
from maintenance import revoker
from maintenance.revoking import Revoking, opened_api

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
    (EmbeddedRevocations, ("claim", "note")),
    (EmbeddedNotices, ("announce",)),
    (EmbeddedAudits, ("append",)),
    (EmbeddedLeases, ("acquire", "release")),
    (EmqxApi, ("_once",)),
):
    for name in names:
        around(owner, name)

revoker.LOOK_SECONDS = 0.02

async def main():
    async with EmbeddedStore.open(settings.data_dir) as store, opened_api(settings, Metrics()) as api:
        revoking = Revoking(store, api, settings, Metrics(), f"life {killed_at}")
        async with background(revoking.run(), finish=revoking.finish):
            while (await store.revocations.waiting()).count:
                await asyncio.sleep(0.01)

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
        "revocation_settle": 0,
        "revocation_lease": 0.3,
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


class Scene:
    """The data of one revocation, and the broker that it concerns."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.emqx = Emqx()
        for name in MINE:
            self.emqx.connect(name, "alice")
        self.emqx.connect("b", "bob")
        self.id = ""

    async def ask(self) -> None:
        one = revocation_of(Target.ACCOUNT, "alice", time.time(), ban=3600, reason="stolen", asked_by="test")
        self.id = one.id
        async with EmbeddedStore.open(self.data) as store:
            await store.sessions.put(session("alice", "a1"))
            assert await store.revocations.add(one)

    async def lift(self) -> None:
        """Let it be revoked and done, and lift it."""
        one = revocation_of(Target.ACCOUNT, "alice", time.time(), ban=3600)
        self.id = one.id
        steps = tuple(Done(step, one.at, 1) for step in one.plan)
        self.emqx.banned["username", "alice"] = {"as": "username", "who": "alice"}
        async with EmbeddedStore.open(self.data) as store:
            assert await store.revocations.add(replace(one, waiting=False, steps=steps))
            assert await store.revocations.lift(self.id, int(time.time() * 1000)) is not None

    async def check_revoked(self) -> None:
        """Everybody whom it concerns is gone and nobody else; the ban stands; all is noted once, in order, and in the audit."""
        record = await self._record()
        assert list(self.emqx.clients) == ["b"]
        assert sorted(set(self.emqx.kicked)) == sorted(MINE)
        assert [ban["who"] for ban in self.emqx.banned.values()] == ["alice"]
        assert [one.step for one in record.steps] == [Step.TOLD, Step.CACHES, Step.BAN, Step.KICK, Step.CHECK]
        lines = self.emqx.lines
        caches = [n for n, line in enumerate(lines) if line.endswith("/node_cache/reset")]
        bans = [n for n, line in enumerate(lines) if line == "POST /banned"]
        looks = [n for n, line in enumerate(lines) if line == "GET /clients"]
        kicks = [n for n, line in enumerate(lines) if line.startswith("POST /clients/kickout")]
        assert max(caches) < min(bans)
        assert max(bans) < min(looks) < min(kicks)
        assert max(looks) > max(kicks)
        await self._check_audits(["told", "done"])

    async def check_lifted(self) -> None:
        """Check that the ban is gone, and that nobody else was kicked."""
        record = await self._record()
        assert self.emqx.banned == {}
        assert [one.step for one in record.steps][-2:] == [Step.LIFTED, Step.UNBAN]
        assert self.emqx.kicked == []
        await self._check_audits(["lifted", "done"])

    async def _record(self) -> Revocation:
        async with EmbeddedStore.open(self.data) as store:
            record = await store.revocations.get(self.id)
        assert record is not None
        assert replace(record, waiting=False) == record
        assert record.next is None
        return record

    async def _check_audits(self, wanted: list[str]) -> None:
        async with EmbeddedStore.open(self.data) as store:
            reasons = [one.reason for one in (await store.audits.latest(100))[::-1] if one.rule == self.id]
        # A record whose note was lost is written once more; none is missing.
        once = [reason for n, reason in enumerate(reasons) if n == 0 or reasons[n - 1] != reason]
        assert once == wanted
        assert len(reasons) <= len(wanted) + 1


Begin = Callable[[Scene], Awaitable[None]]
Check = Callable[[Scene], Awaitable[None]]


async def killed_at_every(folder: Path, begin: Begin, check: Check) -> int:
    """Live undisturbed, then killed at every step in turn; each time all is as it should be. Return how many steps there are."""
    scene = Scene(folder / "undisturbed")
    async with scene.emqx.serving() as url:
        await begin(scene)
        steps = await life(scene.data, url, 0)
        await check(scene)
    assert steps is not None

    async def killed(at: int) -> None:
        scene = Scene(folder / f"{at}")
        async with scene.emqx.serving() as url:
            await begin(scene)
            assert await life(scene.data, url, at) is None
            await life(scene.data, url, 0)
            await check(scene)

    waiting = iter(range(1, steps + 1))

    async def some() -> None:
        for at in waiting:
            await killed(at)

    await asyncio.gather(*(some() for _ in range(3)))
    return steps


@pytest.mark.timeout(280)
async def test_revoking_killed_at_every_step(tmp_path: Path) -> None:
    """Killed before and after each of its steps, in turn: the next life comes to the same end."""
    assert 25 < await killed_at_every(tmp_path, Scene.ask, Scene.check_revoked) < MOST_STEPS


@pytest.mark.timeout(280)
async def test_lifting_killed_at_every_step(tmp_path: Path) -> None:
    """The same for what is to be taken back."""
    assert 12 < await killed_at_every(tmp_path, Scene.lift, Scene.check_lifted) < MOST_STEPS
