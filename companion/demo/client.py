"""An MQTT client as a device or an app would use it: connects with a password, subscribes, tells what it receives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Self

import gmqtt
from gmqtt.mqtt.constants import MQTTv311
from gmqtt.mqtt.handler import MQTTConnectError

from companion.core.errors import CompanionError, Transient

Heard = Callable[[str, bytes], None]

_PATIENCE: Final = 10.0
_REFUSED: Final = 0x80

# gmqtt logs a refused login as an error; here it is what the demo wants to show.
_SILENT: Final = logging.getLogger("companion.demo.gmqtt")
_SILENT.setLevel(logging.CRITICAL)


class ConnectionRefused(CompanionError):
    """The broker refused the login."""


class DemoClient:
    """A connected client (MQTT 3.1.1)."""

    def __init__(self, client: gmqtt.Client) -> None:
        self._client = client
        self._granted: asyncio.Queue[int] = asyncio.Queue(1)
        client.on_subscribe = self._on_subscribe

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, port: int, client_id: str, username: str, password: str, heard: Heard
    ) -> AsyncIterator[Self]:
        """Connect to 127.0.0.1; `heard` is called with the topic and payload of every message.

        Raises `ConnectionRefused` for a refused login and `Transient` when the broker does not answer.
        """

        def on_message(_client: object, topic: str, payload: bytes, _qos: int, _properties: object) -> int:
            heard(topic, bytes(payload))
            return 0

        client = gmqtt.Client(client_id, clean_session=True, logger=_SILENT)
        client.set_config({"reconnect_retries": 0})
        client.on_message = on_message
        client.set_auth_credentials(username, password)
        connected = cls(client)
        try:
            async with asyncio.timeout(_PATIENCE):
                await client.connect("127.0.0.1", port, version=MQTTv311)
        except MQTTConnectError as problem:
            raise ConnectionRefused(str(problem)) from None
        except (OSError, TimeoutError) as problem:
            raise Transient(f"no answer from the broker on port {port}: {problem}") from None
        try:
            yield connected
        finally:
            await client.disconnect()

    async def subscribe(self, topic_filter: str) -> bool:
        """Ask for a subscription at QoS 1; True when the broker granted it (SUBACK below 0x80)."""
        self._client.subscribe(topic_filter, qos=1)
        async with asyncio.timeout(_PATIENCE):
            return await self._granted.get() < _REFUSED

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 0: a refused message just does not arrive."""
        self._client.publish(topic, payload)

    def _on_subscribe(self, _client: object, _mid: int, codes: Any, _properties: object) -> None:  # noqa: ANN401 - gmqtt's
        self._granted.put_nowait(codes[0])
