"""A message becomes the bytes of a PUBLISH packet, once, however often it is sent."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import gmqtt
from gmqtt.mqtt.package import PublishPacket

from companion.core.errors import Invalid
from companion.core.topics import check_topic
from publishers.delivery import Unsendable
from publishers.messages import Message
from publishers.mqtt_reasons import MALFORMED_PACKET, PACKET_TOO_LARGE, TOPIC_NAME_INVALID

MAX_PAYLOAD_BYTES: Final = 255 * 1024 * 1024
"""What fits into any packet (256 MiB less one byte, MQTT 5 §2.1.4), with 1 MiB left for the topic and the properties."""


@dataclass(slots=True)
class Packet:
    """An encoded PUBLISH; its packet identifier, the two bytes at `identifier_at`, is set each time it is sent."""

    data: bytearray
    identifier_at: int
    qos: int
    retain: bool


class _NoIdentifier:
    """Stands in for gmqtt's protocol while it builds a packet: the version, and 0 for the identifier to be set later."""

    def __init__(self, version: int) -> None:
        self.proto_ver = version
        self.id_generator = self

    def next_id(self) -> int:
        return 0


def encode(message: Message, version: int) -> Packet:
    """Return the PUBLISH packet for protocol version 5, or 4, which is MQTT 3.1.1.

    Raises `Unsendable` for what no broker has to accept: an invalid topic name, a property that is no valid MQTT string or
    number, a payload beyond the format.
    """
    try:
        check_topic(message.topic)
    except Invalid as error:
        raise Unsendable(TOPIC_NAME_INVALID, str(error)) from None
    if len(message.payload) > MAX_PAYLOAD_BYTES:
        raise Unsendable(PACKET_TOO_LARGE, f"a payload of {len(message.payload)} bytes")
    topic = message.topic.encode()
    properties = _properties(message) if version == gmqtt.constants.MQTTv50 else {}
    outgoing = gmqtt.Message(topic, message.payload, qos=message.qos, retain=message.retain, **properties)
    try:
        _, data = PublishPacket.build_package(outgoing, _NoIdentifier(version))
    except (struct.error, UnicodeEncodeError) as error:
        raise Unsendable(MALFORMED_PACKET, f"a property cannot be encoded: {error}") from None
    length_bytes = 1
    while data[length_bytes] & 0x80:
        length_bytes += 1
    return Packet(data, 1 + length_bytes + 2 + len(topic), message.qos, message.retain)


def _properties(message: Message) -> dict[str, Any]:
    """Return gmqtt's names and values; a NUL character in a string (MQTT 5 §1.5.4) would cost the connection."""
    properties: dict[str, Any] = {}
    if message.expiry is not None:
        properties["message_expiry_interval"] = message.expiry
    if message.content_type:
        _check_nul(message.content_type)
        properties["content_type"] = message.content_type
    if message.user_properties:
        for name, value in message.user_properties:
            _check_nul(name)
            _check_nul(value)
        properties["user_property"] = message.user_properties
    return properties


def _check_nul(text: str) -> None:
    if "\0" in text:
        raise Unsendable(MALFORMED_PACKET, "a property holds a NUL character")
