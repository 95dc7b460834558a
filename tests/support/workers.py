"""`companion serve --workers N` as a real process, its workers, and what is asked of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp

from tests.support.service import HOOK_KEY, OPS_KEY
from tests.support.waiting import wait_until

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
            url, headers = f"http://127.0.0.1:{self.hooks_port}/mqtt/authz", {"Authorization": f"Bearer {HOOK_KEY}"}
            async with aiohttp.ClientSession() as session, session.post(url, json=ask, headers=headers) as response:
                return str((await response.json())["result"])

        return set(await asyncio.gather(*(once() for _ in range(24))))

    async def ask(self) -> None:
        """Ask once, on a connection of its own; the answer must be a verdict."""
        headers = {"Authorization": f"Bearer {HOOK_KEY}"}
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
        "COMPANION_HOOKS_KEYS": HOOK_KEY,
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
