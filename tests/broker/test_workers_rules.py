"""Rules that are read again while several workers run: all of them follow, or the answer says which one does not."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from companion.core.model import Account, Kind
from companion.stores.embedded import EmbeddedStore
from tests.support.eventually import eventually
from tests.support.waiting import wait_until
from tests.support.workers import Service, serving


def allowing(topic: str) -> str:
    return f'[[rules]]\nsubject = "everyone"\neffect = "allow"\naction = "publish"\nfilter = "{topic}"\n'


@contextlib.asynccontextmanager
async def with_rules(folder: Path, workers: int = 2) -> AsyncIterator[tuple[Service, Path]]:
    """Run workers with a rule file that lets the account alice publish to `one`."""
    rules = folder / "rules.toml"
    rules.write_text(allowing("one"))
    async with EmbeddedStore.open(folder) as store:
        await store.accounts.add([Account("alice", Kind.DEVICE, "alice", "no hash")])
    async with serving(folder, workers=workers, COMPANION_RULES_FILE=str(rules)) as service:
        assert await service.verdicts("one") == {"allow"}
        yield service, rules


async def test_every_worker_goes_by_the_new_rules(tmp_path: Path) -> None:
    """What POST /reload has answered is in force in every worker, and in one that is started later; a bad file changes nothing."""
    async with with_rules(tmp_path) as (service, rules):
        rules.write_text(allowing("two"))
        assert await service.post("/reload") == (200, {"status": "reloaded", "parts": ["rules", "keys"]})
        assert await service.verdicts("two") == {"allow"}
        assert await service.verdicts("one") == {"deny"}
        explained = await service.post("/explain", {"username": "alice", "action": "publish", "topic": "two"})
        assert (explained[0], explained[1]["verdict"], explained[1]["rule"]) == (200, "allow", "file:1")
        rules.write_text(allowing("three#"))
        status, answer = await service.post("/reload")
        assert (status, answer["field"]) == (422, "rules_file.rules[1].filter")
        assert await service.verdicts("two") == {"allow"}
        # The file is still a bad one: who starts now goes by what was good.
        victim = service.workers()[0]
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: victim not in service.workers(), what="it is dead")
        await eventually(service.all_ready, 20, what="both are ready again")
        assert await service.verdicts("two") == {"allow"}
        assert await service.verdicts("one") == {"deny"}


@pytest.mark.parametrize("workers", [1, 2])
async def test_sighup_reads_the_rules_again(tmp_path: Path, workers: int) -> None:
    """With workers and without; a bad file is counted, and the service goes on. A worker that is sent the signal takes no harm."""
    async with with_rules(tmp_path, workers) as (service, rules):
        rules.write_text(allowing("two"))
        service.process.send_signal(signal.SIGHUP)

        async def changed() -> bool:
            return await service.verdicts("two") == {"allow"} and await service.verdicts("one") == {"deny"}

        await eventually(changed, 20, what="the new rules are in force")
        rules.write_text("x")
        service.process.send_signal(signal.SIGHUP)

        async def refused_once() -> bool:
            _, text = await service.get("/metrics")
            return 'companion_reloads_total{outcome="refused"} 1.0' in text

        await eventually(refused_once, 20, what="the bad file is counted")
        for worker in service.workers():
            os.kill(worker, signal.SIGHUP)
        assert await changed()


async def test_a_worker_that_does_not_follow_is_named(tmp_path: Path) -> None:
    """A frozen one cannot say that it goes by the new rules: the answer says so; continued, it follows."""
    async with with_rules(tmp_path) as (service, rules):
        frozen = service.workers()[0]
        os.kill(frozen, signal.SIGSTOP)
        rules.write_text(allowing("two"))
        status, answer = await service.post("/reload")
        assert status == 503
        assert re.search(r"worker \d has not said within 10 s that it follows", answer["error"])
        os.kill(frozen, signal.SIGCONT)

        async def changed() -> bool:
            return await service.verdicts("two") == {"allow"} and await service.verdicts("one") == {"deny"}

        await eventually(changed, 20, what="both follow")
