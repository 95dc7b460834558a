"""The load: keep-alive connections with one request in flight on each, every answer checked.

Runs in its own process (`python -m benchmarks._load`): a `Load` as JSON on standard input, a `Result` as JSON on standard output.
It does as little as it can per answer, so that the server is what is measured; both processor shares are in the result.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

import msgspec

from benchmarks._processes import call, cpu_seconds, do_task

_STATUS = b"HTTP/1.1 200 OK\r\n"


class Exchange(msgspec.Struct, frozen=True):
    """A whole HTTP request, and the body that the answer must have."""

    request: bytes
    answer: bytes


class Load(msgspec.Struct, frozen=True):
    """What to ask, where, over how many connections and for how long; the warm-up is not counted."""

    port: int
    pid: int
    exchanges: list[Exchange]
    connections: int
    seconds: float
    warm_up: float


class Result(msgspec.Struct, frozen=True):
    """What came out: rates per second, times in milliseconds, processor use as shares of one core, cost in microseconds."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu: float
    load_cpu: float
    server_microseconds: float


def run(load: Load) -> Result:
    """Run the load in a process of its own."""
    return msgspec.json.decode(call(__spec__.name, msgspec.json.encode(load)), type=Result)


class _Connection(asyncio.Protocol):
    """One connection: asks, checks the answer, notes the time, asks the next."""

    def __init__(self, exchanges: Iterator[Exchange], failed: asyncio.Future[None]) -> None:
        self.times: list[float] = []
        self._exchanges = exchanges
        self._failed = failed
        self._received = b""
        self._stopping = False

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        if not received.endswith(self._expected) or not received.startswith(_STATUS):
            self._received = received
            if _complete(received):
                self._fail(f"expected {self._expected!r}, got {received!r}")
            return
        self._received = b""
        self.times.append(time.perf_counter() - self._asked_at)
        if not self._stopping:
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._stopping:
            self._fail(f"the server closed a connection ({exc})")

    def start(self, transport: asyncio.WriteTransport) -> None:
        """Ask the first."""
        self._transport = transport
        self._ask()

    def stop(self) -> None:
        """Ask nothing more and close the connection."""
        self._stopping = True
        self._transport.close()

    def _ask(self) -> None:
        exchange = next(self._exchanges)
        self._expected = exchange.answer
        self._asked_at = time.perf_counter()
        self._transport.write(exchange.request)

    def _fail(self, message: str) -> None:
        if not self._failed.done():
            self._failed.set_exception(RuntimeError(message))


def _complete(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    _, _, length = head.lower().partition(b"\r\ncontent-length:")
    return bool(end) and (not length or len(body) >= int(length.partition(b"\r\n")[0]))


async def _measure(load: Load) -> Result:
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    connections = []
    for index in range(load.connections):
        share = load.exchanges[index % len(load.exchanges) :: load.connections]
        connection = _Connection(itertools.cycle(share), failed)
        transport, _ = await loop.create_connection(lambda one=connection: one, "127.0.0.1", load.port)  # type: ignore[misc]
        connection.start(transport)
        connections.append(connection)
    await asyncio.wait({failed}, timeout=load.warm_up)
    for connection in connections:
        connection.times.clear()
    started, server_cpu, load_cpu = time.perf_counter(), cpu_seconds(load.pid), time.process_time()
    await asyncio.wait({failed}, timeout=load.seconds)
    seconds = time.perf_counter() - started
    server_cpu, load_cpu = cpu_seconds(load.pid) - server_cpu, time.process_time() - load_cpu
    if failed.done():
        await failed
    for connection in connections:
        connection.stop()
    if not any(connection.times for connection in connections):
        raise RuntimeError(f"no answer within {load.seconds:g} s")
    times = sorted(itertools.chain.from_iterable(connection.times for connection in connections))
    return Result(
        requests_per_second=len(times) / seconds,
        p50_ms=times[len(times) // 2] * 1000,
        p99_ms=times[len(times) * 99 // 100] * 1000,
        server_cpu=server_cpu / seconds,
        load_cpu=load_cpu / seconds,
        server_microseconds=server_cpu / len(times) * 1e6,
    )


if __name__ == "__main__":
    do_task(Load, _measure)
