"""An embedded broker that asks hooks of the test, and short ways to clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from companion.embedded import EmbeddedBroker, EmbeddedBrokerConfig
from tests.broker.embedded_client import PING_PACKET, PINGRESP, RawClient
from tests.broker.embedded_client import client as connection
from tests.broker.embedded_hooks import Hooks, hooks

__all__ = ["hooks"]


@pytest.fixture
async def port(hooks: Hooks) -> AsyncIterator[int]:
    """Run an embedded broker that asks `hooks`, and return its port."""
    async with EmbeddedBroker(EmbeddedBrokerConfig(port=0, hooks_url=hooks.url)) as broker:
        yield broker.port


async def leave_session(port: int, client_id: str, username: str = "alice", topic_filter: str = "a") -> None:
    """Leave a session behind that subscribes to a filter at QoS 1."""
    async with connection(port) as device:
        assert await device.connect(client_id, username, clean=False) == 0
        assert await device.subscribe((topic_filter, 1)) == [1]
        await device.goodbye()


async def publish(port: int, topic: str, *payloads: bytes, retain: bool = False) -> None:
    async with connection(port) as device:
        assert await device.connect("publisher") == 0
        for payload in payloads:
            await device.publish(topic, payload, qos=1, retain=retain)
        await device.goodbye()


async def is_in(device: RawClient) -> bool:
    device.send(PING_PACKET)
    return await device.expect(PINGRESP) == b""
