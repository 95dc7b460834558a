"""What the broker said when it accepted us, and what that rules out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gmqtt.mqtt.property import Property
from gmqtt.mqtt.utils import unpack_variable_byte_integer

from publishers.delivery import Unsendable
from publishers.mqtt_encoding import Packet
from publishers.mqtt_reasons import PACKET_TOO_LARGE, QOS_NOT_SUPPORTED, RETAIN_NOT_SUPPORTED

_NO_RECEIVE_MAXIMUM: Final = 65_535
_UNANNOUNCED_RECEIVE_MAXIMUM: Final = 20
_HIGHEST_QOS: Final = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """The broker's limits from CONNACK (MQTT 5 §3.2.2.3); the defaults are the standard's.

    `maximum_packet_size` is in bytes; `server_keep_alive` is in seconds, None when the broker takes ours.
    """

    receive_maximum: int = _NO_RECEIVE_MAXIMUM
    maximum_qos: int = _HIGHEST_QOS
    retain_available: bool = True
    maximum_packet_size: int | None = None
    server_keep_alive: int | None = None

    @classmethod
    def of(cls, properties: dict[str, Any]) -> Limits:
        """Read the limits out of the properties of a CONNACK."""
        return cls(
            receive_maximum=properties.get("receive_maximum", _NO_RECEIVE_MAXIMUM),
            maximum_qos=properties.get("max_qos", _HIGHEST_QOS),
            retain_available=bool(properties.get("retain_available", 1)),
            maximum_packet_size=properties.get("maximum_packet_size"),
            server_keep_alive=properties.get("server_keep_alive"),
        )

    @classmethod
    def unannounced(cls) -> Limits:
        """Return the limits of a broker that speaks MQTT 3.1.1, where CONNACK tells none.

        Brokers have a receive maximum all the same (20 in mosquitto, 32 in EMQX). Beyond it mosquitto 2.0.11 sends PUBCOMP for
        QoS 2 messages that it then does not pass on.
        """
        return cls(receive_maximum=_UNANNOUNCED_RECEIVE_MAXIMUM)

    def objection(self, packet: Packet) -> Unsendable | None:
        """Return why this broker would hang up over the packet, None if it would not."""
        if packet.qos > self.maximum_qos:
            return Unsendable(QOS_NOT_SUPPORTED, f"QoS {packet.qos}, the broker takes up to {self.maximum_qos}")
        if packet.retain and not self.retain_available:
            return Unsendable(RETAIN_NOT_SUPPORTED)
        if self.maximum_packet_size is not None and len(packet.data) > self.maximum_packet_size:
            return Unsendable(
                PACKET_TOO_LARGE, f"{len(packet.data)} bytes, the broker takes {self.maximum_packet_size}"
            )
        return None


def read_properties(data: bytes) -> dict[str, Any]:
    """Return the properties at the start of `data` (MQTT 5 §2.2.2) by gmqtt's names; of repeated ones the last.

    Raises `ValueError`, `IndexError` or `struct.error` for a malformed block.
    """
    if not data:
        return {}
    length, rest = unpack_variable_byte_integer(data)
    rest = rest[:length]
    properties: dict[str, Any] = {}
    while rest:
        known = Property.factory(id_=rest[0])
        if known is None:
            raise ValueError(f"unknown property 0x{rest[0]:02X}")
        values, rest = known.loads(rest[1:])
        properties.update(values)
    return properties
