"""A broker by hand: a TCP server that speaks MQTT byte by byte, for what no real broker does on demand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.support.waiting import wait_until

CONNACK = bytes([0x20, 3, 0, 0, 0])
"""Accepted, MQTT 5, without properties."""


DISCONNECT = 0xE0


@dataclass(slots=True, eq=False)
class Peer:
    """The broker's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self) -> tuple[int, bytes]:
        """Return the first byte and the body of the next packet; a DISCONNECT raises `ConnectionError`."""
        first = (await self.reader.readexactly(1))[0]
        length = shift = 0
        while True:
            byte = (await self.reader.readexactly(1))[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        body = await self.reader.readexactly(length)
        if first == DISCONNECT:
            raise ConnectionError("the client took its leave")
        return first, body

    async def read_publish(self) -> tuple[int, int]:
        """Return the first byte and the packet identifier of the next packet, a PUBLISH with QoS 1 or 2."""
        first, body = await self.read()
        assert first & 0xF0 == 0x30
        end = 2 + int.from_bytes(body[:2], "big")
        return first, int.from_bytes(body[end : end + 2], "big")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def accept(self, connack: bytes = CONNACK) -> None:
        """Take CONNECT and accept it."""
        first, _ = await self.read()
        assert first == 0x10
        await self.send(connack)

    async def acknowledge(self) -> None:
        """Take a QoS 1 PUBLISH and acknowledge it in the shortest form."""
        _, identifier = await self.read_publish()
        await self.send(b"\x40\x02" + identifier.to_bytes(2, "big"))

    async def until_gone(self) -> None:
        """Read until the other side has closed."""
        with contextlib.suppress(ConnectionError):
            await self.reader.read()


Script = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def scripted_broker(scripts: Sequence[Script]) -> AsyncIterator[int]:
    """Serve one connection after the other with these scripts, the last one again and again; yield the port.

    A connection is closed at the end of its script. An assertion that fails in a script fails the test, and so does a script that
    has not ended 10 seconds after the test: the client left its connection open.
    """
    failures: list[BaseException] = []
    left = list(scripts)
    serving: list[Peer] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        serving.append(peer)
        script = left.pop(0) if len(left) > 1 else left[0]
        try:
            await script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client hung up: its own tests say whether it should have
        except AssertionError as failure:
            failures.append(failure)
        finally:
            writer.close()
            serving.remove(peer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        server.close()
    await wait_until(lambda: not serving, what="every connection is closed by the client")
    if failures:
        raise failures[0]
