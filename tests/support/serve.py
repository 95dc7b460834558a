"""`companion serve` as a real process, with an environment of its own; what it logs can be looked at and waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_until

_START_SECONDS = 90.0
_END_SECONDS = 60.0


@dataclass
class Serving:
    """A running service, its bound ports, and what it has logged."""

    process: Process
    hooks_port: int = 0
    ops_port: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)

    def logged(self, event: str, **fields: Any) -> Sequence[dict[str, Any]]:
        """Return the log entries of this event that have these fields."""
        return [one for one in self.entries if one["event"] == event and fields.items() <= one.items()]

    async def logs(self, event: str, count: int = 1, **fields: Any) -> None:
        """Return once it has logged this so often."""
        await wait_until(lambda: len(self.logged(event, **fields)) >= count, 60, f"{event} {fields} {self.entries}")

    def hang_up(self) -> None:
        """SIGHUP: read the configuration again."""
        self.process.send_signal(signal.SIGHUP)

    @property
    def children(self) -> Sequence[int]:
        """The process ids of its workers."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _environ(folder: Path, settings: Mapping[str, object]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COMPANION_")}
    own = {"data_dir": folder, "hooks_port": 0, "ops_port": 0, "mqtt_port": 1, "log_format": "json"}
    return inherited | {f"COMPANION_{name.upper()}": str(value) for name, value in {**own, **settings}.items()}


async def _start(folder: Path, options: Sequence[str], settings: Mapping[str, object], errors: int) -> Process:
    command = Path(sys.executable).with_name("companion")
    return await asyncio.create_subprocess_exec(
        command, "serve", *options, stdin=DEVNULL, stderr=errors, env=_environ(folder, settings)
    )


@contextlib.asynccontextmanager
async def companion_serve(folder: Path, *options: str, **settings: object) -> AsyncIterator[Serving]:
    """Run `companion serve OPTIONS` until the block ends; `settings` by their names. It must end well on SIGTERM."""
    process = await _start(folder, options, settings, PIPE)
    service = Serving(process)
    reading = asyncio.create_task(_read(service))
    try:
        await wait_until(
            lambda: service.logged("started") or process.returncode is not None, _START_SECONDS, "the service starts"
        )
        assert service.logged("started"), service.entries
        (started,) = service.logged("started")
        service.hooks_port, service.ops_port = started.get("hooks_port", 0), started["ops_port"]
        yield service
        process.terminate()
        async with asyncio.timeout(_END_SECONDS):
            assert await process.wait() == 0, service.entries[-5:]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


async def _read(service: Serving) -> None:
    assert service.process.stderr is not None
    decoder = json.JSONDecoder()
    async for line in service.process.stderr:
        text = line.decode().strip()
        # Of several processes that write at once, two entries can be on one line.
        while text.startswith("{"):
            entry, end = decoder.raw_decode(text)
            service.entries.append(entry)
            text = text[end:]
        if text:
            service.entries.append({"event": text})


async def refused_serve(folder: Path, *options: str, **settings: object) -> tuple[int | None, list[str]]:
    """Return the exit code of a start that must fail, and its lines."""
    process = await _start(folder, options, settings, PIPE)
    async with asyncio.timeout(_START_SECONDS):
        _, errors = await process.communicate()
    return process.returncode, errors.decode().splitlines()
