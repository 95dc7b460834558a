"""What tests of the delivery share: short ways to a message and a configuration, and an observer that keeps everything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from publishers.messages import Message
from publishers.mqtt_config import MqttConfig


def message(
    topic: str,
    payload: bytes = b"payload",
    *,
    qos: Literal[1, 2] = 1,
    retain: bool = False,
    expiry: int | None = 3600,
    content_type: str = "application/json",
    user_properties: tuple[tuple[str, str], ...] = (("event-id", "e1"), ("op", "update")),
) -> Message:
    """Return a message as the publisher makes them."""
    return Message(topic, payload, qos, retain, expiry, content_type, user_properties)


def mqtt_config(port: int, **changes: Any) -> MqttConfig:
    """Return a configuration for a broker at 127.0.0.1 that tries again quickly."""
    values: dict[str, Any] = {"host": "127.0.0.1", "port": port, "client_id": "publisher", "backoff_max": 0.4}
    return MqttConfig(**values | changes)


@dataclass(slots=True)
class Seen:
    """A `DeliveryObserver` that keeps what it is told."""

    connections: int = 0
    failures: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)

    def connected(self) -> None:
        self.connections += 1

    def connect_failed(self, reason: str) -> None:
        self.failures.append(reason)

    def disconnected(self, reason: str) -> None:
        self.ends.append(reason)

    def acknowledged(self, seconds: float) -> None:
        self.latencies.append(seconds)

    def refused(self, reason_code: int) -> None:
        self.refusals.append(reason_code)
