"""Reads the first packet of a connection before amqtt sees anything of it: who is not allowed in must not touch its sessions."""

from __future__ import annotations

import asyncio
import secrets
import string
from dataclasses import dataclass, field
from typing import Final

from amqtt.adapters import BufferReader
from amqtt.errors import NoDataError
from amqtt.mqtt.connack import (
    IDENTIFIER_REJECTED,
    NOT_AUTHORIZED,
    UNACCEPTABLE_PROTOCOL_VERSION,
    ConnackPacket,
)
from amqtt.mqtt.connect import ConnectPacket

from companion.core.errors import CompanionError, Invalid
from companion.core.topics import check_topic
from companion.embedded.packets import CONNECT, MalformedPacket, read_packet

_MQTT: Final = b"\0\x04MQTT"
_MQTT_3_1: Final = b"\0\x06MQIsdp"
_LEVEL: Final = 4
_HIGHEST_QOS: Final = 2
_BASE62: Final = string.digits + string.ascii_letters


@dataclass(frozen=True, slots=True)
class Will:
    """What is published for a client that goes without a DISCONNECT (MQTT 3.1.1 §3.1.2.5)."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True)
class Connect:
    """A CONNECT packet; missing names and passwords are "". `keep_alive` is in seconds, 0 for none."""

    client_id: str
    username: str
    password: str = field(repr=False)
    clean_session: bool
    keep_alive: int
    will: Will | None


class MalformedConnect(CompanionError):
    """No CONNECT, or one that breaks the protocol: the connection is closed without an answer (MQTT 3.1.1 §4.8)."""


class RefusedConnect(CompanionError):
    """A CONNECT that is answered with this CONNACK return code without asking anybody."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"CONNACK {code}")


def connack(code: int) -> bytes:
    """Return a CONNACK that refuses, as bytes (MQTT 3.1.1 §3.2)."""
    packet: bytes = ConnackPacket.build(0, code).to_bytes()
    return packet


async def read_connect(reader: asyncio.StreamReader) -> Connect:
    """Read a CONNECT of MQTT 3.1.1. An empty client id is replaced as EMQX does it, by 16 random characters.

    Raises `MalformedConnect` and `RefusedConnect`.
    """
    try:
        first = await read_packet(reader, only=CONNECT)
        if _level(first.body) != _LEVEL:
            raise RefusedConnect(UNACCEPTABLE_PROTOCOL_VERSION)
        packet = await ConnectPacket.from_stream(BufferReader(first.raw))
    except (OSError, EOFError, NoDataError, MalformedPacket) as problem:
        raise MalformedConnect("the first packet is no complete CONNECT") from problem
    _check_flags(packet)
    if packet.client_id_is_random:
        packet.client_id = ""
    # amqtt reads bytes that are not UTF-8 as some other text, and takes fields that do not fill the packet: both show here.
    if packet.variable_header.to_bytes() + packet.payload.to_bytes(None, packet.variable_header) != first.body:
        raise RefusedConnect(NOT_AUTHORIZED)
    if not packet.client_id and not packet.clean_session_flag:
        raise RefusedConnect(IDENTIFIER_REJECTED)
    return Connect(
        client_id=packet.client_id or "".join(secrets.choice(_BASE62) for _ in range(16)),
        username=packet.username or "",
        password=packet.password or "",
        clean_session=packet.clean_session_flag,
        keep_alive=packet.keep_alive,
        will=_will(packet),
    )


def _level(body: bytes) -> int:
    for name in (_MQTT, _MQTT_3_1):
        if body.startswith(name) and len(body) > len(name):
            return body[len(name)]
    raise MalformedConnect("the protocol is not MQTT")


def _check_flags(packet: ConnectPacket) -> None:
    """Refuse flags that contradict each other (MQTT 3.1.1 §3.1.2.3 to §3.1.2.9)."""
    without_will = not packet.will_flag and (packet.will_qos or packet.will_retain_flag)
    without_user = packet.password_flag and not packet.username_flag
    if packet.reserved_flag or packet.will_qos > _HIGHEST_QOS or without_will or without_user:
        raise MalformedConnect("the flags of the CONNECT contradict each other")


def _will(packet: ConnectPacket) -> Will | None:
    if not packet.will_flag:
        return None
    try:
        check_topic(packet.will_topic or "", "will")
    except Invalid as problem:
        raise MalformedConnect("the topic of the will is not valid") from problem
    return Will(packet.will_topic, bytes(packet.will_message), packet.will_qos, packet.will_retain_flag)
