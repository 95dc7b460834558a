"""Whole packets off the wire, checked before amqtt parses them.

amqtt reads on after a packet that it cannot use, at whatever byte it got to, and takes bytes that are not UTF-8 for some other
text. Here a packet that breaks MQTT 3.1.1 ends the connection instead, as §4.8 asks for.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from companion.core.errors import CompanionError, Invalid
from companion.core.topics import check_topic

MAX_PACKET: Final = 1024 * 1024
"""Bytes of the largest packet, EMQX's default `max_packet_size`."""

CONNECT: Final = 0x10
_PUBLISH: Final = 0x30
_SUBSCRIBE: Final = 0x82
_UNSUBSCRIBE: Final = 0xA2
_ACKNOWLEDGEMENTS: Final = (0x40, 0x50, 0x62, 0x70)
"""First bytes of PUBACK, PUBREC, PUBREL and PUBCOMP: each holds a packet identifier and nothing else."""
_EMPTY: Final = (0xC0, 0xE0)
"""First bytes of PINGREQ and DISCONNECT."""

_LENGTH_BITS: Final = 28
_IDENTIFIER: Final = 2
_HIGHEST_QOS: Final = 2
_DUP: Final = 0x08


class MalformedPacket(CompanionError):
    """Bytes that are no packet that a client may send."""


class Packet(NamedTuple):
    """A packet: its first byte, the encoded remaining length, the rest."""

    first: int
    length: bytes
    body: bytes

    @property
    def raw(self) -> bytes:
        """The packet as it came."""
        return bytes([self.first]) + self.length + self.body


async def read_packet(reader: asyncio.StreamReader, only: int | None = None) -> Packet:
    """Read one packet (MQTT 3.1.1 §2.2), of one first byte only where `only` says which.

    Raises `MalformedPacket`, and `IncompleteReadError` when the stream ends in it.
    """
    first = (await reader.readexactly(1))[0]
    if only is not None and first != only:
        raise MalformedPacket("another packet was due")
    encoded = b""
    length = 0
    while not encoded or encoded[-1] & 0x80:
        if 7 * len(encoded) >= _LENGTH_BITS:
            raise MalformedPacket("the length of the packet has no end")
        encoded += await reader.readexactly(1)
        length |= (encoded[-1] & 0x7F) << 7 * (len(encoded) - 1)
    if length > MAX_PACKET:
        raise MalformedPacket("the packet is too large")
    return Packet(first, encoded, await reader.readexactly(length))


def check_packet(packet: Packet) -> None:
    """Raise `MalformedPacket` unless a connected client may send this packet (MQTT 3.1.1 §3.3 to §3.14)."""
    first, body = packet.first, packet.body
    if first & 0xF0 == _PUBLISH:
        _check_publish(first & 0x0F, body)
    elif first in (_SUBSCRIBE, _UNSUBSCRIBE):
        _check_filters(body, options=int(first == _SUBSCRIBE))
    elif not (first in _ACKNOWLEDGEMENTS and len(body) == _IDENTIFIER) and not (first in _EMPTY and not body):
        raise MalformedPacket("a packet that a connected client does not send")


def _check_publish(flags: int, body: bytes) -> None:
    qos = flags >> 1 & 3
    topic, end = _text(body, 0)
    if qos > _HIGHEST_QOS or (flags & _DUP and not qos):
        raise MalformedPacket("the flags of the PUBLISH contradict each other")
    if qos:
        _check_identifier(body[end : end + _IDENTIFIER])
    try:
        check_topic(topic)
    except Invalid as problem:
        raise MalformedPacket("the topic of the PUBLISH is not valid") from problem


def _check_filters(body: bytes, options: int) -> None:
    """Check an identifier, then filters, each followed by `options` bytes that hold a QoS."""
    _check_identifier(body[:_IDENTIFIER])
    position = _IDENTIFIER
    if position == len(body):
        raise MalformedPacket("there is no filter")
    while position < len(body):
        topic_filter, position = _text(body, position)
        option = body[position : position + options]
        position += options
        if not topic_filter or len(option) != options or any(qos > _HIGHEST_QOS for qos in option):
            raise MalformedPacket("a filter or its QoS is missing")


def _check_identifier(identifier: bytes) -> None:
    if len(identifier) != _IDENTIFIER or identifier == b"\0\0":
        raise MalformedPacket("the packet identifier is missing or 0")


def _text(body: bytes, start: int) -> tuple[str, int]:
    """Return a UTF-8 string (MQTT 3.1.1 §1.5.3) and the position behind it."""
    size = int.from_bytes(body[start : start + 2], "big")
    end = start + 2 + size
    if start + 2 > len(body) or end > len(body):
        raise MalformedPacket("a string goes beyond the packet")
    try:
        text = body[start + 2 : end].decode()
    except UnicodeDecodeError as problem:
        raise MalformedPacket("a string is not UTF-8") from problem
    if "\0" in text:
        raise MalformedPacket("a string holds NUL")
    return text, end
