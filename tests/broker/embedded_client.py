"""An MQTT 3.1.1 client that sends exactly the packets it is told to, and shows exactly those that come back."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

TIMEOUT = 10.0

CONNACK, PUBLISH, PUBACK, PUBREC, PUBCOMP, SUBACK, UNSUBACK, PINGRESP = 2, 3, 4, 5, 7, 9, 11, 13


class Packet(NamedTuple):
    """A packet that came in: its type, the flags of its first byte, the rest."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A PUBLISH that came in."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("!H", len(raw)) + raw


def packet(first: int, body: bytes) -> bytes:
    length, size = b"", len(body)
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | (0x80 if size else 0)])
        if not size:
            return bytes([first]) + length + body


@dataclass(frozen=True, slots=True)
class Will:
    topic: str
    payload: bytes = b"gone"
    qos: int = 0
    retain: bool = False


def connect_packet(
    client_id: str | bytes,
    username: str | bytes | None = "alice",
    password: str | bytes | None = "secret",  # noqa: S107 - nobody's
    *,
    clean: bool = True,
    keep_alive: int = 0,
    will: Will | None = None,
    level: int = 4,
) -> bytes:
    flags, payload = (0x02 if clean else 0), text(client_id)
    if will is not None:
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        payload += text(will.topic) + text(will.payload)
    if username is not None:
        flags, payload = flags | 0x80, payload + text(username)
    if password is not None:
        flags, payload = flags | 0x40, payload + text(password)
    return packet(0x10, text("MQTT") + bytes([level, flags]) + struct.pack("!H", keep_alive) + payload)


def publish_packet(
    topic: str, payload: bytes = b"x", *, qos: int = 0, retain: bool = False, packet_id: int = 1
) -> bytes:
    identifier = struct.pack("!H", packet_id) if qos else b""
    return packet(0x30 | qos << 1 | retain, text(topic) + identifier + payload)


def subscribe_packet(filters: Sequence[tuple[str, int]], packet_id: int = 10) -> bytes:
    return packet(0x82, struct.pack("!H", packet_id) + b"".join(text(name) + bytes([qos]) for name, qos in filters))


def unsubscribe_packet(*filters: str, packet_id: int = 11) -> bytes:
    return packet(0xA2, struct.pack("!H", packet_id) + b"".join(map(text, filters)))


DISCONNECT_PACKET = packet(0xE0, b"")
PING_PACKET = packet(0xC0, b"")


class RawClient:
    """One TCP connection to a broker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.messages: list[Message] = []
        """Messages that came in while something else was awaited."""

    def send(self, *packets: bytes) -> None:
        """Send bytes, all in one write."""
        self._writer.write(b"".join(packets))

    async def receive(self) -> Packet:
        async with asyncio.timeout(TIMEOUT):
            first = (await self._reader.readexactly(1))[0]
            length = shift = 0
            while True:
                digit = (await self._reader.readexactly(1))[0]
                length |= (digit & 0x7F) << shift
                shift += 7
                if not digit & 0x80:
                    return Packet(first >> 4, first & 0x0F, await self._reader.readexactly(length))

    async def expect(self, kind: int) -> bytes:
        """Return the body of the next packet of this kind; messages before it are kept."""
        while (received := await self.receive()).kind != kind:
            assert received.kind == PUBLISH, f"packet {received} instead of {kind}"
            self.messages.append(self._message(received))
        return received.body

    async def message(self) -> Message:
        """Return the next message; acknowledges QoS 1."""
        if self.messages:
            return self.messages.pop(0)
        received = await self.receive()
        assert received.kind == PUBLISH, received
        return self._message(received)

    async def connect(self, *args: str | bytes | None, **more: object) -> int:
        """Send a CONNECT and return the return code of the CONNACK."""
        return (await self.connack(*args, **more))[1]

    async def connack(self, *args: str | bytes | None, **more: object) -> tuple[bool, int]:
        """Send a CONNECT and return what the CONNACK says: whether a session is present, and the return code."""
        self.send(connect_packet(*args, **more))  # type: ignore[arg-type]  # handed through as they are
        flags, code = await self.expect(CONNACK)
        return bool(flags), code

    async def subscribe(self, *filters: tuple[str, int]) -> list[int]:
        """Subscribe and return the codes of the SUBACK."""
        self.send(subscribe_packet(filters))
        return list((await self.expect(SUBACK))[2:])

    async def publish(self, topic: str, payload: bytes = b"x", *, qos: int = 0, retain: bool = False) -> None:
        """Publish, and wait for what the QoS promises."""
        self.send(publish_packet(topic, payload, qos=qos, retain=retain))
        if qos == 1:
            await self.expect(PUBACK)
        elif qos == 2:
            await self.expect(PUBREC)
            self.send(packet(0x62, struct.pack("!H", 1)))
            await self.expect(PUBCOMP)

    async def unsubscribe(self, *filters: str) -> None:
        self.send(unsubscribe_packet(*filters))
        await self.expect(UNSUBACK)

    async def goodbye(self) -> None:
        """Send a DISCONNECT and wait until the broker has closed the connection."""
        self.send(DISCONNECT_PACKET)
        await self.closed()

    async def closed(self) -> bytes:
        """Wait until the broker closes the connection; return what came before."""
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(ConnectionError):
                return await self._reader.read()
        return b""

    async def close(self) -> None:
        """Go without a DISCONNECT."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def _message(self, received: Packet) -> Message:
        qos = received.flags >> 1 & 3
        size = struct.unpack("!H", received.body[:2])[0]
        topic, rest = received.body[2 : 2 + size].decode(), received.body[2 + size :]
        if qos:
            self.send(packet(0x40, rest[:2]))
            rest = rest[2:]
        return Message(topic, rest, qos, bool(received.flags & 1))


@contextlib.asynccontextmanager
async def client(port: int) -> AsyncIterator[RawClient]:
    """Open a connection without sending anything."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    raw = RawClient(reader, writer)
    try:
        yield raw
    finally:
        await raw.close()
