"""`companion serve --workers N` with real processes: killed, frozen, orphaned, told to end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import pytest

from companion.core.model import Account, Kind
from companion.stores.embedded import EmbeddedStore
from tests.support.eventually import eventually
from tests.support.waiting import wait_until

KEY = "the-hook-key-of-the-tests"
OPS_KEY = "the-operations-key-of-the-tests"
OPS = {"Authorization": f"Bearer {OPS_KEY}"}
ASK = {"username": "nobody", "clientid": "c", "action": "publish", "topic": "a/b"}
DECISIONS = "companion_hook_decisions_total"


@dataclass(frozen=True)
class Service:
    """A running `companion serve` and its two ports."""

    process: Process
    hooks_port: int
    ops_port: int

    def workers(self) -> Sequence[int]:
        """Return the process ids of its workers."""
        return children(self.process.pid)

    async def post(self, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """Post to the operations port and return status and answer."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{self.ops_port}{path}", json=body, headers=OPS) as response,
        ):
            return response.status, await response.json()

    async def verdicts(self, topic: str) -> set[str]:
        """Ask whether alice may publish there, on so many connections that every worker gets some."""
        ask = {"username": "alice", "clientid": "c", "action": "publish", "topic": topic}

        async def once() -> str:
            url, headers = f"http://127.0.0.1:{self.hooks_port}/mqtt/authz", {"Authorization": f"Bearer {KEY}"}
            async with aiohttp.ClientSession() as session, session.post(url, json=ask, headers=headers) as response:
                return str((await response.json())["result"])

        return set(await asyncio.gather(*(once() for _ in range(24))))

    async def ask(self) -> None:
        """Ask once, on a connection of its own; the answer must be a verdict."""
        headers = {"Authorization": f"Bearer {KEY}"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{self.hooks_port}/mqtt/authz", json=ASK, headers=headers) as response,
        ):
            assert response.status == 200
            assert (await response.json())["result"] == "deny"

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and text of a page of the operations port."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.ops_port}{path}") as response,
        ):
            return response.status, await response.text()

    async def readiness(self) -> tuple[int, dict[str, Any]]:
        """Return status and body of /readyz."""
        status, text = await self.get("/readyz")
        return status, json.loads(text)

    async def total(self, name: str) -> float:
        """Return the sum over the series of a metric."""
        _, text = await self.get("/metrics")
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    async def all_ready(self) -> bool:
        """Tell whether both workers are ready."""
        return bool((await self.readiness())[1]["workers"] == {"1": "ready", "2": "ready"})


def children(pid: int) -> Sequence[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    """Tell whether a process is no more; a zombie that nobody has buried yet is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def spawn(
    folder: Path, *options: str, hooks_port: int = 0, more: Mapping[str, str] = MappingProxyType({})
) -> Process:
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COMPANION_")} | {
        "COMPANION_DATA_DIR": str(folder),
        "COMPANION_HOOKS_PORT": str(hooks_port),
        "COMPANION_HOOKS_KEYS": KEY,
        "COMPANION_OPS_PORT": "0",
        "COMPANION_OPS_KEYS": OPS_KEY,
        "COMPANION_MQTT_PORT": "1",
        "TMPDIR": str(temporary),
        **more,
    }
    command = Path(sys.executable).with_name("companion")
    return await asyncio.create_subprocess_exec(command, "serve", *options, stderr=PIPE, env=environ)


def first_entry(line: bytes) -> dict[str, Any]:
    """Return the log entry at the beginning of a line: of several processes that write at once, two can be on one."""
    assert line, "the service ended"
    entry: dict[str, Any] = json.JSONDecoder().raw_decode(line.decode())[0]
    return entry


@contextlib.asynccontextmanager
async def serving(folder: Path, role: str = "hooks", workers: int = 2, **more: str) -> AsyncIterator[Service]:
    """Run two workers until the block ends; then nothing may be left of them. `more` is their environment."""
    process = await spawn(folder, "--role", role, "--workers", str(workers), more=more)
    assert process.stderr is not None
    left: Sequence[int] = ()
    try:
        async with asyncio.timeout(60):
            while (entry := first_entry(await process.stderr.readline()))["event"] != "started":
                pass
        service = Service(process, entry["hooks_port"], entry["ops_port"])
        yield service
    finally:
        if process.returncode is None:
            left = children(process.pid)
            process.kill()
        for worker in left:
            # A frozen one does not see that its parent is gone.
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
        await process.communicate()
        await wait_until(lambda: all(gone(worker) for worker in left), 20, what="the workers end")


async def test_two_workers_answer_and_count_together(tmp_path: Path) -> None:
    """Connections reach both processes, and a scrape shows what both counted, within seconds and with nothing counted twice."""
    async with serving(tmp_path) as service:
        # The second time each shares again what it has shared before.
        for asked in (64, 128):
            await asyncio.gather(*(service.ask() for _ in range(64)))

            async def counted(asked: int = asked) -> bool:
                found = [await service.total(name) for name in (DECISIONS, "companion_hook_seconds_count")]
                assert max(found) <= asked, found
                return found == [asked, asked]

            await eventually(counted, 60, f"{asked} are counted")
        # Each worker shares what it counted in a file of its own.
        files = sorted((tmp_path / "tmp").glob("companion-*/counter_*.db"))
        assert [file.name for file in files] == ["counter_1.db", "counter_2.db"]
        assert await service.total("companion_workers") == 2


async def test_each_worker_answers(tmp_path: Path) -> None:
    """With one worker frozen the other answers its share of the connections; continued, it answers those that waited for it."""
    async with serving(tmp_path) as service:
        first, second = service.workers()
        for frozen in (first, second):
            os.kill(frozen, signal.SIGSTOP)
            asked = [asyncio.create_task(service.ask()) for _ in range(48)]
            done, waiting = await asyncio.wait(asked, timeout=2)
            assert done
            assert waiting
            os.kill(frozen, signal.SIGCONT)
            async with asyncio.timeout(20):
                await asyncio.gather(*asked)


async def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """After kill -9 the other worker answers, a new one starts, and no count goes back."""
    async with serving(tmp_path) as service:
        await asyncio.gather(*(service.ask() for _ in range(32)))

        async def counted() -> bool:
            return await service.total(DECISIONS) == 32

        await eventually(counted, what="all is counted")
        victim, other = service.workers()
        os.kill(victim, signal.SIGKILL)
        # Not before its parent has buried it are its sockets closed: a thread may outlive the first one for a moment.
        await wait_until(lambda: victim not in service.workers(), what="it is dead")
        for _ in range(20):
            await service.ask()
        await eventually(service.all_ready, 20, what="both are ready again")
        assert await service.total("companion_worker_restarts_total") == 1
        now = service.workers()
        assert len(now) == 2
        assert other in now
        assert victim not in now

        async def counted_on() -> bool:
            total = await service.total(DECISIONS)
            assert total >= 32
            return total == 52

        await eventually(counted_on, what="what came since is counted on top")


async def test_a_frozen_worker_is_named(tmp_path: Path) -> None:
    """/readyz names a worker that is silent and stays 200 while another one decides; with both silent it is 503."""
    async with serving(tmp_path) as service:
        first, second = service.workers()

        async def silent(count: int) -> tuple[int, dict[str, Any]] | None:
            # The roles are asked before the workers: one that falls silent in between is in the next answer.
            status, body = await service.readiness()
            found = [problem for problem in body["workers"].values() if problem.startswith("silent for")]
            return (status, body) if len(found) == count and (count == 1 or status != 200) else None

        os.kill(first, signal.SIGSTOP)
        status, body = await eventually(lambda: silent(1), 15, what="the first is missed")
        assert (status, body["roles"]["hooks"]) == (200, "ready")
        assert await service.total("companion_workers") == 2
        os.kill(second, signal.SIGSTOP)
        status, body = await eventually(lambda: silent(2), 15, what="the second is missed")
        assert status == 503
        assert "worker 1: silent" in body["roles"]["hooks"]
        for worker in (first, second):
            os.kill(worker, signal.SIGCONT)
        await eventually(service.all_ready, what="both are back")


async def test_sigterm_ends_all(tmp_path: Path) -> None:
    """SIGTERM ends the workers and the parent, which exits with 0 and leaves no file behind."""
    async with serving(tmp_path, "all") as service:
        _, body = await service.readiness()
        assert set(body["roles"]) == {"maintenance", "publisher", "hooks"}
        workers = service.workers()
        service.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            _, errors = await service.process.communicate()
        assert service.process.returncode == 0
        assert json.loads(errors.splitlines()[-1])["event"] == "stopped"
        assert b"worker ended" not in errors
        assert all(gone(worker) for worker in workers)
        assert list((tmp_path / "tmp").iterdir()) == []


async def test_workers_do_not_outlive_their_parent(tmp_path: Path) -> None:
    """After kill -9 of the parent the workers end by themselves, the port is free, and their files are removed."""
    async with serving(tmp_path) as service:
        workers = service.workers()
        service.process.kill()
        await wait_until(lambda: all(gone(worker) for worker in workers), 20, what="the workers end")
        with socket.create_server(("127.0.0.1", service.hooks_port)):
            pass
        assert list((tmp_path / "tmp").iterdir()) == []


async def refused(folder: Path, *options: str, hooks_port: int = 0) -> tuple[int | None, list[str]]:
    """Return the exit code of a start that must fail, and its lines."""
    process = await spawn(folder, *options, hooks_port=hooks_port)
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    return process.returncode, errors.decode().splitlines()


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """A port of somebody else, also of another service of ours with workers, stops the start with one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, lines = await refused(tmp_path / "a", "--role", "hooks", "--workers", "2", hooks_port=port)
        assert code == 1
        assert len(lines) == 1
        assert f"hooks_port: '127.0.0.1:{port}' is not allowed" in lines[0]
    async with serving(tmp_path / "b") as service:
        code, lines = await refused(tmp_path / "a", "--role", "hooks", "--workers", "2", hooks_port=service.hooks_port)
        assert code == 1
        assert [line for line in lines if "hooks_port" in line] == lines
        assert len(lines) == 1


@pytest.mark.parametrize("role", ["publisher", "maintenance"])
async def test_workers_without_hooks(tmp_path: Path, role: str) -> None:
    """Several workers with a role that has no hooks are wrong usage."""
    code, (line,) = await refused(tmp_path, "--role", role, "--workers", "2")
    assert code == 2
    assert f"1 with the role {role}" in line


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
