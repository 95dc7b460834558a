"""A real mosquitto (MQTT 3.1.1 and 5) on a free port, which can be stopped, killed, frozen and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import wait_until

PROGRAM = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") or "mosquitto"


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nobody listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Mosquitto:
    """One broker; started on entering the context, or later with `start` if `autostart` is off.

    `config_lines` are added to the configuration file as they are; for lines that name files in `folder` there is `add_config`,
    before the start. `persistent` keeps sessions, queues and retained messages in `folder`: saved on `stop`, lost on `kill`.
    Anonymous clients are allowed unless `config_lines` say otherwise. `port` stays the same over restarts.
    """

    def __init__(self, *, config_lines: Sequence[str] = (), persistent: bool = False, autostart: bool = True) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self._config_lines = list(config_lines)
        self._persistent = persistent
        self._autostart = autostart
        self._temporary = tempfile.TemporaryDirectory(prefix="mosquitto-")
        self.folder = Path(self._temporary.name)
        self._kept_log = ""
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        if self._autostart:
            await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            await self.kill()
        self._kept_log = self.log
        self._temporary.cleanup()

    @property
    def running(self) -> bool:
        """Whether the process lives, frozen or not."""
        return self._process is not None and self._process.returncode is None

    @property
    def log(self) -> str:
        """What the broker has logged over all restarts; also after leaving the context."""
        path = self.folder / "mosquitto.log"
        return path.read_text(errors="replace") if path.exists() else self._kept_log

    def add_config(self, *lines: str) -> None:
        """Add lines to the configuration, for the next start."""
        self._config_lines += lines

    async def start(self) -> None:
        """Start it, and return when it listens."""
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join(self._config()) + "\n")
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(PROGRAM, "-c", str(config), stdout=log, stderr=log)
        await wait_until(lambda: not self.running or self._listens(), what="mosquitto listens")
        if not self.running:
            raise AssertionError(f"mosquitto did not start:\n{self.log}")

    async def stop(self) -> None:
        """End it cleanly (SIGTERM): clients are told, a persistent one saves its state."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it at once (SIGKILL): nothing is said, nothing is saved."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """Stop it and start it on the same port."""
        await self.stop()
        await self.start()

    def freeze(self) -> None:
        """Stop it from running (SIGSTOP): connections stay open, nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run again after `freeze`."""
        self._signal(signal.SIGCONT)

    def reload(self) -> None:
        """Let it read its password and ACL files again (SIGHUP)."""
        self._signal(signal.SIGHUP)

    def _config(self) -> list[str]:
        lines = ["user root"] if os.geteuid() == 0 else []  # it would drop to a user who cannot read the folder
        lines += [f"listener {self.port} {self.host}", "log_dest stderr", "log_type all"]
        if not any(line.startswith("allow_anonymous") for line in self._config_lines):
            lines.append("allow_anonymous true")
        if self._persistent:
            lines += ["persistence true", f"persistence_location {self.folder}/"]
        return lines + self._config_lines

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise AssertionError("mosquitto was not started")
        self._process.send_signal(number)

    async def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        if self._process is not None:
            await asyncio.wait_for(self._process.wait(), 10)
