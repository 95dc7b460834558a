"""A mosquitto for the publisher to talk to."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_START_SECONDS: Final = 10.0
_RECEIVE_MAXIMUM: Final = 1000
"""Above every window that is measured, so that the broker's default of 20 does not set the pace."""


@contextlib.contextmanager
def mosquitto(folder: Path) -> Iterator[int]:
    """Run it on a free port of this machine and yield the port. Raises `RuntimeError` when there is none or it does not start."""
    program = shutil.which(
        "mosquitto", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    )
    if program is None:
        raise RuntimeError("mosquitto is not installed; on Debian and Ubuntu: apt-get install mosquitto")
    folder.mkdir()
    port = _free_port()
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages {_RECEIVE_MAXIMUM}\nlog_dest stderr\n"
    )
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"mosquitto did not start:\n{(folder / 'log').read_text()}")
                time.sleep(0.01)
            yield port
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
