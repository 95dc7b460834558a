"""A client's socket as amqtt reads and writes it, with the limits that amqtt does not set: silence, a peer that stops reading."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from amqtt.adapters import ReaderAdapter, WriterAdapter

from companion.embedded.packets import MalformedPacket, check_packet, read_packet

_WRITE_TIMEOUT: Final = 10.0
_CLOSE_TIMEOUT: Final = 2.0


class ClientReader(ReaderAdapter):  # type: ignore[misc]  # amqtt ships no types
    """Gives amqtt whole packets. Every way to end (hung up, silent, malformed, closed) looks to it like an end of the stream."""

    def __init__(
        self, reader: asyncio.StreamReader, silence: float | None, room: Callable[[], Awaitable[None]]
    ) -> None:
        """Wait for a packet at most `silence` seconds (None: for ever), and begin to only when `room` returns."""
        self._reader = reader
        self._silence = silence
        self._room = room
        self._packet = b""
        self._position = 0
        self._ended = False

    async def read(self, n: int = -1) -> bytes:
        """Return the next `n` bytes of a packet; raises `ConnectionResetError` at the end."""
        if self._position == len(self._packet):
            self._packet, self._position = await self._next_packet(), 0
        data = self._packet[self._position : self._position + n]
        self._position += len(data)
        return data

    def feed_eof(self) -> None:
        """Begin no other packet, not even one that has arrived."""
        self._ended = True

    async def _next_packet(self) -> bytes:
        # amqtt handles a packet in a task of its own. One turn of the loop lets that begin: before it is counted by `room`, and
        # before the end of the stream, at which amqtt cancels what has not begun.
        await asyncio.sleep(0)
        await self._room()
        if not self._ended:
            try:
                async with asyncio.timeout(self._silence):
                    packet = await read_packet(self._reader)
                check_packet(packet)
            except (TimeoutError, EOFError, OSError, MalformedPacket):
                self._ended = True
            else:
                return packet.raw
        raise ConnectionResetError


class ClientWriter(WriterAdapter):  # type: ignore[misc]  # amqtt ships no types
    """Writes to a client, and drops a client that takes nothing for ten seconds."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> None:
        """Queue bytes; after the end of the connection this does nothing."""
        if not self._writer.is_closing():
            self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the client takes bytes; raises `ConnectionResetError` when it does not."""
        if self._writer.is_closing():
            return
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT):
                await self._writer.drain()
        except TimeoutError:
            self.abort()
            raise ConnectionResetError from None

    def get_peer_info(self) -> tuple[str, int] | None:
        """Return the client's address and port, None when it has gone before anyone looked."""
        peer = self._writer.get_extra_info("peername")
        return (peer[0], peer[1]) if peer else None

    def get_ssl_info(self) -> None:
        """Return None: the embedded broker speaks plain TCP."""

    async def close(self) -> None:
        """Send what is queued and close; never raises, and takes two seconds at most."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._writer.wait_closed()
        except TimeoutError:
            self.abort()
        except OSError:
            return  # The peer was faster.

    def abort(self) -> None:
        """Close at once; what is queued is lost."""
        self._writer.transport.abort()
