"""The service as a process of its own, on the same data folder and the same port over all its lives."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from companion.settings import Role
from tests.support.eventually import eventually
from tests.support.mosquitto import free_port

OPS_KEY: Final = "the-operations-key-of-the-faults"
_START_SECONDS: Final = 60.0
_END_SECONDS: Final = 30.0


class Service:
    """`companion serve`, by default the publisher; `settings` are by their names, such as `publisher_attempts`.

    `up` is true from the end of its start to whatever befalls it.
    """

    def __init__(
        self,
        folder: Path,
        broker_port: int,
        http: aiohttp.ClientSession,
        role: Role = Role.PUBLISHER,
        **settings: object,
    ) -> None:
        self.data_dir = folder / "data"
        self.up = False
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._http = http
        self._role = role
        self.log_file = folder / "service.log"
        own = {"data_dir": self.data_dir, "ops_port": port, "ops_keys": OPS_KEY, "mqtt_port": broker_port}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("COMPANION_")}
        self._environ = inherited | {
            f"COMPANION_{name.upper()}": str(value) for name, value in (own | settings).items()
        }
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The process of this life or the last."""
        if self._process is None:
            raise AssertionError("the service was not started")
        return self._process

    @property
    def running(self) -> bool:
        """Whether the process lives, frozen or not."""
        return self._process is not None and self._process.returncode is None

    @property
    def log(self) -> str:
        """What it has logged over all its lives."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    async def start(self) -> None:
        """Start it, and return when its port answers."""
        command = [sys.executable, "-m", "companion.cli", "serve", "--role", self._role.value]
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, env=self._environ, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        await eventually(self._answers, _START_SECONDS, "the service answers")
        self.up = True

    async def _answers(self) -> bool:
        if not self.running:
            raise AssertionError(f"the service did not start:\n{self.log}")
        try:
            async with self._http.get(f"{self.url}/healthz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def kill(self) -> None:
        """`kill -9`."""
        self.up = False
        self.process.kill()
        await asyncio.wait_for(self.process.wait(), _END_SECONDS)

    async def terminate(self) -> int:
        """SIGTERM; return the exit code."""
        self.up = False
        self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), _END_SECONDS)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.up = False
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)
        self.up = True

    async def noticed_the_end(self) -> None:
        """Return when it knows that it has no broker; every acknowledgement that it got before is then noted with its time."""

        async def disconnected() -> bool:
            return await self.metric("companion_broker_connected") == 0

        await eventually(disconnected, what="the service noticed that the broker is gone")
        await self.metric("companion_broker_connected")  # one more turn of its event loop

    async def metric(self, name: str) -> float:
        """Return the value of a series without labels."""
        async with self._http.get(f"{self.url}/metrics") as response:
            text = await response.text()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name:
                    return sample.value
        raise AssertionError(f"no series {name}")
