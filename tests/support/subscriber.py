"""An MQTT subscriber that keeps what it receives, in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it came in; `properties` are gmqtt's, each value in a list."""

    topic: str
    payload: bytes
    qos: int
    properties: dict[str, Any]


@dataclass(slots=True)
class Inbox:
    """What came in so far."""

    messages: list[Received] = field(default_factory=list)

    @property
    def payloads(self) -> list[bytes]:
        """The payloads, in the order of arrival."""
        return [message.payload for message in self.messages]


@contextlib.asynccontextmanager
async def subscriber(
    port: int, topic_filter: str = "#", *, qos: int = 1, client_id: str = "subscriber", protocol: str = "5"
) -> AsyncIterator[Inbox]:
    """Subscribe at 127.0.0.1 and yield the inbox once the broker has acknowledged the subscription.

    The session outlives the connection (one hour), and the subscriber reconnects by itself: a persistent broker queues for it.
    """
    inbox = Inbox()
    subscribed = asyncio.Event()

    def on_message(_client: object, topic: str, payload: bytes, qos: int, properties: dict[str, Any]) -> int:
        inbox.messages.append(Received(topic, bytes(payload), qos, properties))
        return 0

    def on_subscribe(*_: object) -> None:
        subscribed.set()

    version = MQTTv50 if protocol == "5" else MQTTv311
    session = {"session_expiry_interval": 3600} if protocol == "5" else {}
    # mosquitto 2.0.11 saves a session only if it began without a clean start.
    client = gmqtt.Client(client_id, clean_session=False, **session)
    client.set_config({"reconnect_delay": 0.05, "reconnect_retries": -1})
    client.on_message = on_message
    client.on_subscribe = on_subscribe
    await client.connect("127.0.0.1", port, version=version)
    client.subscribe(topic_filter, qos=qos)
    await asyncio.wait_for(subscribed.wait(), 10)
    try:
        yield inbox
    finally:
        await client.disconnect()
