"""The measured servers and the load, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import uvloop

_ROOT: Final = Path(__file__).resolve().parents[1]
_STOP_SECONDS: Final = 30

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its process id, and the ports it announced by name."""

    pid: int
    ports: dict[str, int]


@contextlib.contextmanager
def server(module: str, folder: Path, *arguments: str) -> Iterator[Server]:
    """Run `python -m module folder arguments`, which prints its ports as one JSON line once it serves; end it with SIGTERM.

    `folder` is made; it is for the server's data and its log. Raises `RuntimeError` with the log when it does not start or does not
    end cleanly.
    """
    folder.mkdir()
    log_file = folder / "log"
    command = [sys.executable, "-m", module, str(folder), *arguments]
    with (
        log_file.open("wb") as log,
        subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            announced = process.stdout.readline() if process.stdout else b""
            if not announced:
                raise RuntimeError(f"{module} did not start:\n{log_file.read_text()}")
            yield Server(process.pid, msgspec.json.decode(announced, type=dict[str, int]))
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
    if process.returncode:
        raise RuntimeError(f"{module} ended with {process.returncode}:\n{log_file.read_text()}")


def metric(running: Server, name: str) -> float:
    """Return what a server shows under this name on its operations port; the sum where there are several series."""
    connection = http.client.HTTPConnection("127.0.0.1", running.ports["ops"])
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def announce(**ports: int) -> None:
    """Tell the parent process where we serve."""
    sys.stdout.buffer.write(msgspec.json.encode(ports) + b"\n")
    sys.stdout.buffer.flush()


def call(module: str, task: bytes) -> bytes:
    """Run `python -m module` with `task` on its standard input and return what it prints."""
    return subprocess.run(
        [sys.executable, "-m", module], cwd=_ROOT, input=task, stdout=subprocess.PIPE, check=True
    ).stdout


def do_task(kind: type[T], do: Callable[[T], Coroutine[Any, Any, object]]) -> None:
    """Be the process that `call` runs: do the task on its standard input, and print as JSON what comes of it."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=kind)
    # What it measures is not to wait for it.
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(do(task))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


def cpu_seconds(pid: int) -> float:
    """Return the processor time that all threads of a process have used; NaN where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
