"""A storm: devices that connect at once, each until it is let in, as EMQX would ask for them over its connections.

Runs in its own process (`python -m benchmarks._storm_load`): a `Storm` as JSON on standard input, an `Outcome` as JSON on standard
output. Every answer is an explicit one, or the run fails.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque

import msgspec

from benchmarks._load import Exchange
from benchmarks._processes import call, cpu_seconds, do_task
from broker_hooks.wire import DENY

_STATUS = b"HTTP/1.1 200 OK\r\n"
_SETTLE = 0.5


class Storm(msgspec.Struct, frozen=True):
    """Who connects where, how often in a row, over how many connections, all open before it begins.

    Who is refused tries again after some pause.
    """

    port: int
    pid: int
    devices: list[Exchange]
    connections: int
    pause: float
    times: int = 1


class Outcome(msgspec.Struct, frozen=True):
    """From the first request to the last device that was let in; answers, and how many were refusals; times in milliseconds."""

    seconds: float
    answers: int
    refusals: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    server_cpu_seconds: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds


def run(storm: Storm) -> Outcome:
    """Run the storm in a process of its own."""
    return msgspec.json.decode(call(__spec__.name, msgspec.json.encode(storm)), type=Outcome)


class _Fleet:
    """Who has to be let in yet."""

    def __init__(self, storm: Storm) -> None:
        self.waiting = deque(storm.devices * storm.times)
        self.left = len(self.waiting)
        self.times: list[float] = []
        self.refusals = 0
        self.idle: list[_Connection] = []
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pause = storm.pause

    def answered(self, device: Exchange, *, let_in: bool) -> None:
        """One less, or one that comes back after a while."""
        if let_in:
            self.left -= 1
            if not self.left and not self.over.done():
                self.over.set_result(None)
            return
        self.refusals += 1
        pause = self._pause * (0.5 + random.random())  # noqa: S311 - devices that do not come back in step
        asyncio.get_running_loop().call_later(pause, self._back, device)

    def _back(self, device: Exchange) -> None:
        self.waiting.append(device)
        if self.idle:
            self.idle.pop().ask()


class _Connection(asyncio.Protocol):
    """One connection of the broker: one request in flight."""

    def __init__(self, fleet: _Fleet) -> None:
        self._fleet = fleet
        self._received = b""
        self._device: Exchange | None = None
        self._asked_at = 0.0

    def start(self, transport: asyncio.WriteTransport) -> None:
        """Take the transport that we are at the end of."""
        self.transport = transport

    def ask(self) -> None:
        """Ask for the next device, or wait for one."""
        if not self._fleet.waiting:
            self._device = None
            self._fleet.idle.append(self)
            return
        self._device = self._fleet.waiting.popleft()
        self._asked_at = time.perf_counter()
        self.transport.write(self._device.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        device = self._device
        if device is None:
            self._fail(f"an answer that nobody asked for: {data!r}")
            return
        let_in = self._received.endswith(device.answer)
        if not self._received.startswith(_STATUS[: len(self._received)]):
            self._fail(f"no explicit answer: {self._received!r}")
        elif let_in or self._received.endswith(DENY):
            self._received = b""
            self._fleet.times.append(time.perf_counter() - self._asked_at)
            self._fleet.answered(device, let_in=let_in)
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._fleet.idle:
            # A server may close what nobody has used for a while.
            self._fleet.idle.remove(self)
            return
        self._fail(f"the server closed a connection ({exc})")

    def _fail(self, message: str) -> None:
        if not self._fleet.over.done():
            self._fleet.over.set_exception(RuntimeError(message))


async def _measure(storm: Storm) -> Outcome:
    """Connect, let the server take the connections, then begin."""
    loop = asyncio.get_running_loop()
    fleet = _Fleet(storm)
    connections = []
    for _ in range(storm.connections):
        transport, connection = await loop.create_connection(lambda: _Connection(fleet), "127.0.0.1", storm.port)
        connection.start(transport)
        connections.append(connection)
    await asyncio.sleep(_SETTLE)
    started, cpu = time.perf_counter(), cpu_seconds(storm.pid)
    for connection in connections:
        connection.ask()
    await fleet.over
    seconds, cpu = time.perf_counter() - started, cpu_seconds(storm.pid) - cpu
    for connection in connections:
        connection.transport.abort()
    times = sorted(fleet.times)
    return Outcome(
        seconds=seconds,
        answers=len(times),
        refusals=fleet.refusals,
        p50_ms=times[len(times) // 2] * 1000,
        p99_ms=times[len(times) * 99 // 100] * 1000,
        max_ms=times[-1] * 1000,
        server_cpu_seconds=cpu,
    )


if __name__ == "__main__":
    do_task(Storm, _measure)
