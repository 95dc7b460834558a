"""The demo as a person starts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

from companion.core.model import Account, Kind
from companion.core.revocations import Target, revocation_of
from companion.stores.embedded import EmbeddedStore
from tests.support.mosquitto import free_port

DEADLINE = 60.0


@contextlib.asynccontextmanager
async def demo(data_dir: Path, *options: str) -> AsyncIterator[tuple[Process, dict[str, str]]]:
    """Start `companion demo` with its data in `data_dir` and ports of its own."""
    hooks, ops, mqtt = free_port(), free_port(), free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COMPANION_")} | {
        "COMPANION_DATA_DIR": str(data_dir),
        "COMPANION_HOOKS_PORT": str(hooks),
        "COMPANION_OPS_PORT": str(ops),
        "COMPANION_MQTT_PORT": str(mqtt),
        "COMPANION_PASSWORD_COST": "4",
    }
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("companion"),
        "demo",
        *options,
        stdout=PIPE,
        stderr=PIPE,
        env=environ,
        limit=2**20,
    )
    try:
        yield process, environ
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_tour_ends_well(tmp_path: Path) -> None:
    """`companion demo --once` shows refusals and a change that a device received, and exits 0; also the second time."""
    for _ in range(2):
        async with demo(tmp_path, "--once") as (process, _), asyncio.timeout(DEADLINE):
            output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        text = output.decode()
        assert "a device received a change" in text
        assert "thermostat-1 was refused +/#" in text
        assert text.count("● ") == 2


async def test_rights_that_were_taken_away(tmp_path: Path) -> None:
    """Who disabled or revoked somebody of the demo, as the README shows, gets it as it was the next time."""
    async with EmbeddedStore.open(tmp_path / "demo") as store:
        await store.accounts.add([Account("thermostat-1", Kind.DEVICE, "thermostat-1", "no hash", disabled=True)])
        for target, name in ((Target.ACCOUNT, "alice"), (Target.CLIENT, "alice-demo")):
            assert await store.revocations.add(revocation_of(target, name, time.time()))
    async with demo(tmp_path, "--once") as (process, _), asyncio.timeout(DEADLINE):
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def test_the_printed_commands_work_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    """The commands that the demo prints work when pasted; Ctrl-C ends everything with exit code 0."""
    async with demo(tmp_path) as (process, environ), asyncio.timeout(DEADLINE):
        assert process.stdout is not None
        printed = (await process.stdout.readuntil(b"Ctrl-C ends the demo.")).decode()
        commands = [
            line.strip()
            for line in printed.splitlines()
            if (line.startswith("  ") and "127.0.0.1" in line) or "change --db" in line
        ]
        listen, refused, change, metrics, ready = commands[-5:]
        pasted = {name: value for name, value in environ.items() if not name.startswith("COMPANION_")}
        async with shell(listen, pasted) as listener:
            assert listener.stdout is not None
            heard = asyncio.create_task(listener.stdout.readuntil(b'"op":"u"'))
            # Nobody tells when the listener has subscribed: change the entity until it hears.
            while not heard.done():
                output, errors, code = await finished(change, pasted)
                assert code == 0, errors
                assert '"accepted":1' in output
            assert b"65f1c0ffee0000000000d001" in heard.result()
        output, errors, _ = await finished(f"timeout 20 {refused}", pasted)
        assert "denied" in (output + errors).lower() or "refused" in (output + errors).lower()
        assert 'reason="no_rule",verdict="deny"' in (await finished(metrics, pasted))[0]
        assert '"status":"ready"' in (await finished(ready, pasted))[0]
        process.send_signal(signal.SIGINT)
        await process.communicate()
        assert process.returncode == 0


@contextlib.asynccontextmanager
async def shell(command: str, environ: dict[str, str]) -> AsyncIterator[Process]:
    """Paste a command into a shell of its own and end it with the block."""
    process = await asyncio.create_subprocess_exec(*shlex.split(command), stdout=PIPE, stderr=PIPE, env=environ)
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def finished(command: str, environ: dict[str, str]) -> tuple[str, str, int | None]:
    """Paste a command into a shell and return its output, its errors and its exit code."""
    process = await asyncio.create_subprocess_shell(command, stdout=PIPE, stderr=PIPE, env=environ)
    output, errors = await process.communicate()
    return output.decode(), errors.decode(), process.returncode
