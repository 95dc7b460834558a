"""The subscriber of the fault tests: it comes back whatever happens, and keeps every message in order of arrival."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import gmqtt

from tests.faults.ledger import Arrival
from tests.support.waiting import wait_until

_SESSION_SECONDS: Final = 3600


class Listener:
    """Subscribes to everything at QoS 1 in a session that outlives its connections.

    A broker that says that it has no session (MQTT 5 §3.2.2.1.1) is asked for the subscription again. `fresh_sessions` counts
    that; the first is one. `topics` are those on which something arrived.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._arrived: list[tuple[str, bytes]] = []
        self._subscribed = False
        self.fresh_sessions = 0
        self.topics: set[str] = set()
        self._client = gmqtt.Client("listener", clean_session=False, session_expiry_interval=_SESSION_SECONDS)
        self._client.set_config({"reconnect_delay": 0.05, "reconnect_retries": -1})
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe

    @property
    def count(self) -> int:
        """How many messages arrived, repeats included."""
        return len(self._arrived)

    def arrivals(self, start: int = 0) -> Sequence[Arrival]:
        """Return what arrived, repeats included, from this message on."""
        return [Arrival(topic, json.loads(payload)["event_id"]) for topic, payload in self._arrived[start:]]

    async def come(self) -> None:
        """Connect, and return with a session that has the subscription."""
        self._subscribed = False
        await self._client.connect("127.0.0.1", self._port)
        await wait_until(lambda: self._subscribed, what="the subscription is acknowledged")

    async def leave(self) -> None:
        """Disconnect; the broker goes on to queue for the session."""
        await self._client.disconnect()

    def _on_connect(self, _client: object, session_present: int, _code: int, _properties: object) -> None:
        if session_present:
            self._subscribed = True
        else:
            self.fresh_sessions += 1
            self._client.subscribe("#", qos=1)

    def _on_subscribe(self, *_: object) -> None:
        self._subscribed = True

    def _on_message(self, _client: object, topic: str, payload: bytes, _qos: int, _properties: dict[str, Any]) -> int:
        self._arrived.append((topic, bytes(payload)))
        self.topics.add(topic)
        return 0


@contextlib.asynccontextmanager
async def listening(port: int) -> AsyncIterator[Listener]:
    """Run a listener at 127.0.0.1 until the block ends."""
    listener = Listener(port)
    await asyncio.wait_for(listener.come(), 10)
    try:
        yield listener
    finally:
        await listener.leave()
