"""Three maintenance processes tick and run one fast job, while one after the other is paused past its lease, or killed."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import redis as blocking
from pymongo import MongoClient

from tests.conftest import Note
from tests.support.mongo import mongo_server
from tests.support.production import settings_of
from tests.support.redis import redis_server

ROOT: Final = Path(__file__).parents[2]
TICKS: Final = 200
EVERY: Final = 0.15
LEASE: Final = 1.0
PATIENCE: Final = 180.0

PROGRAM = '''
"""One replica: its settings as JSON come as the only argument."""
import asyncio, json, os, sys, time

import redis.asyncio

from companion.core.errors import Fenced
from companion.core.runs import Progress
from companion.job_settings import JobSettings
from companion.metrics import Metrics
from companion.settings import Settings
from companion.stores.opening import open_store
from maintenance import catalogue, engine
from maintenance.service import running_maintenance

LEASE, EVERY = float(sys.argv[2]), float(sys.argv[3])
settings = Settings.model_validate(json.loads(sys.argv[1]))

# Whoever has a lower fence than one that was here writes nothing.
PUSH = """
local newest = tonumber(redis.call('GET', 'newest') or '0')
if tonumber(ARGV[1]) < newest then
    redis.call('INCR', 'refused')
    return 0
end
redis.call('SET', 'newest', ARGV[1])
redis.call('RPUSH', 'written', ARGV[2])
return 1
"""

class Fast:
    name, purpose, parameters = "fast", "writes", {}
    schedule = JobSettings(every=EVERY, grace=60)
    lease_seconds, resumes = LEASE, True

    async def batches(self, work):
        for step in range(int(work.run.progress.position or 0), 4):
            await asyncio.sleep(0.004)
            token = work.term.lease.token
            line = json.dumps({"run": work.run.id, "token": token, "step": step, "pid": os.getpid()})
            if not await push(args=[token, line]):
                raise Fenced("a later one is at work")
            yield Progress(step + 1, 4, {}, str(step + 1))

catalogue.OURS = (Fast,)
engine._LOOK_SECONDS = 0.05
engine._ABANDONED_SECONDS = 0.2

async def main():
    global push
    client = redis.asyncio.Redis.from_url(settings.redis_url.get_secret_value())
    push = client.register_script(PUSH)
    async with open_store(settings) as store, running_maintenance(settings, store, Metrics()):
        await asyncio.Event().wait()

asyncio.run(main())
'''


class Replica:
    """One process over all its lives."""

    def __init__(self, settings: Mapping[str, Any], log: Path) -> None:
        self._arguments = [json.dumps(settings), str(LEASE), str(EVERY)]
        self._log = log
        self._process: Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, *self._arguments, cwd=ROOT, stdout=log, stderr=log
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        assert self._process.returncode is None, self._log.read_text()[-2000:]
        self._process.send_signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self._process is not None
        await self._process.wait()


@pytest.mark.timeout(280)
async def test_one_at_a_time_whatever_happens(tmp_path: Path, note: Note) -> None:
    """200 ticks, processes paused and killed at random: each tick is run, never two at once, and nobody writes out of turn."""
    drawn = random.Random(7)  # noqa: S311 - repeatable, and no secret
    (tmp_path / "mongo").mkdir()
    async with mongo_server(tmp_path / "mongo") as mongo, redis_server(tmp_path / "redis") as redis:
        settings = {**settings_of(mongo.url, redis.url), "mongo_timeout": 2.5, "data_dir": str(tmp_path)}
        replicas = [Replica(settings, tmp_path / f"replica{number}.log") for number in range(3)]
        for replica in replicas:
            await replica.start()
        with MongoClient[dict[str, Any]](mongo.url) as client, blocking.Redis(port=redis.port) as words:
            runs = client[str(settings["mongo_database"])]["mqtt_runs"]

            def done() -> int:
                return runs.count_documents({"state": "done"})

            faults = 0
            async with asyncio.timeout(PATIENCE):
                while done() < TICKS:
                    await asyncio.sleep(drawn.uniform(0.5, 2))
                    replica = drawn.choice(replicas)
                    faults += 1
                    if faults % 2:
                        replica.signal(signal.SIGSTOP)
                        await asyncio.sleep(LEASE * drawn.uniform(1.2, 2))
                        replica.signal(signal.SIGCONT)
                    else:
                        await replica.kill()
                        await replica.start()
            for replica in replicas:
                await replica.kill()
            found = list(runs.find({"state": "done"}))
            written = [json.loads(line) for line in words.lrange("written", 0, -1)]
            note(
                f"{len(found)} runs, {len(written)} writes, {faults} faults, {int(words.get('refused') or 0)} writes refused"
            )
    assert faults >= 6
    judge(found, written)
    assert len({line["pid"] for line in written}) >= 3


def judge(found: Sequence[Mapping[str, Any]], written: Sequence[Mapping[str, Any]]) -> None:
    """Check that every run that is done wrote each of its steps, and that no token came back after a higher one."""
    tokens = [line["token"] for line in written]
    assert tokens == sorted(tokens)
    by_run: dict[str, list[int]] = {}
    for line in written:
        by_run.setdefault(line["run"], []).append(line["step"])
    for run in found:
        assert sorted(set(by_run[run["_id"]])) == [0, 1, 2, 3], run
    # Tokens never go back and each belongs to one life of one run: so no two runs were ever at work at once.
    lives = {(line["token"], line["run"], line["pid"]) for line in written}
    assert len(lives) == len(set(tokens))
