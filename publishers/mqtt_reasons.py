"""Reason codes and their names: MQTT 5 §2.4, and the return codes of CONNACK in MQTT 3.1.1 §3.2.2.3."""

from __future__ import annotations

from typing import Final

FAILURE: Final = 0x80
"""Reason codes from here on say that it did not work (MQTT 5 §2.4)."""

UNACCEPTABLE_PROTOCOL_VERSION: Final = 0x01
MALFORMED_PACKET: Final = 0x81
TOPIC_NAME_INVALID: Final = 0x90
PACKET_TOO_LARGE: Final = 0x95
RETAIN_NOT_SUPPORTED: Final = 0x9A
QOS_NOT_SUPPORTED: Final = 0x9B

BLAMES_A_PACKET: Final = frozenset(
    {
        MALFORMED_PACKET,
        0x82,
        0x87,
        TOPIC_NAME_INVALID,
        PACKET_TOO_LARGE,
        0x99,
        RETAIN_NOT_SUPPORTED,
        QOS_NOT_SUPPORTED,
    }
)
"""Reasons of a DISCONNECT that may mean one of our packets, not us or the broker's own state.

0x87 belongs here because EMQX with `authorization.deny_action = disconnect` answers a denied publish so.
"""

_NAMES: Final = {
    0x00: "normal disconnection",
    0x01: "unacceptable protocol version",
    0x02: "identifier rejected",
    0x03: "server unavailable",
    0x04: "bad user name or password",
    0x05: "not authorized",
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "implementation specific error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x8B: "server shutting down",
    0x8C: "bad authentication method",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x8F: "topic filter invalid",
    0x90: "topic name invalid",
    0x91: "packet identifier in use",
    0x92: "packet identifier not found",
    0x93: "receive maximum exceeded",
    0x94: "topic alias invalid",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "administrative action",
    0x99: "payload format invalid",
    0x9A: "retain not supported",
    0x9B: "QoS not supported",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9E: "shared subscriptions not supported",
    0x9F: "connection rate exceeded",
    0xA0: "maximum connect time",
    0xA1: "subscription identifiers not supported",
    0xA2: "wildcard subscriptions not supported",
}


def reason_name(code: int) -> str:
    """Return the standard's name of a reason code, in lower case."""
    return _NAMES.get(code, "unknown reason")


def shown_reason(code: int) -> str:
    """Return a code with its name for a message, such as `0x87 not authorized`."""
    return f"0x{code:02X} {reason_name(code)}"
