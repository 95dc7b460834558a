"""The embedded broker sets limits to what a client may cost: in time, in messages that wait, in what is not read."""

from __future__ import annotations

import asyncio

import pytest
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler

from companion.embedded import client, door, mqtt_core, streams
from tests.broker.embedded_broker import is_in, leave_session, port, publish
from tests.broker.embedded_client import Will, publish_packet
from tests.broker.embedded_client import client as connection
from tests.broker.embedded_hooks import ALLOW, Hooks, Reply, hooks
from tests.support.waiting import wait_until

__all__ = ["hooks", "port"]


async def test_a_client_that_acknowledges_nothing_is_no_error_of_the_broker(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that is not acknowledged in time (amqtt's 5 s, here none) leaves no exception that nobody looked at."""

    async def late(*_: object, **__: object) -> None:
        raise TimeoutError

    await publish(port, "a", b"retained", retain=True)
    async with connection(port) as device:
        assert await device.connect("device") == 0
        monkeypatch.setattr(BrokerProtocolHandler, "mqtt_publish", late)
        assert await device.subscribe(("a", 1)) == [1]
        await device.publish("a", b"live", qos=1)
        assert await is_in(device)


async def test_a_silent_client_is_gone(port: int) -> None:
    """One and a half keep-alive periods without a packet end the connection, and the will is published."""
    async with connection(port) as listener, connection(port) as device:
        assert await listener.connect("listener") == 0
        assert await listener.subscribe(("will", 0)) == [0]
        assert await device.connect("device", keep_alive=1, will=Will("will")) == 0
        await device.closed()
        assert (await listener.message()).payload == b"gone"


async def test_messages_for_an_absent_client_are_limited(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest message goes when the queue of an absent client is full."""
    monkeypatch.setattr(mqtt_core, "_OFFLINE_MESSAGES", 3)
    await leave_session(port, "device")
    await publish(port, "a", *(b"%d" % number for number in range(5)))
    async with connection(port) as device:
        assert await device.connect("device", clean=False) == 0
        assert [(await device.message()).payload for _ in range(3)] == [b"2", b"3", b"4"]
        assert await is_in(device)
        assert device.messages == []


async def test_a_client_that_does_not_read_is_dropped(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes nothing for the write timeout loses the connection, and nobody else does."""
    monkeypatch.setattr(streams, "_WRITE_TIMEOUT", 0.2)
    async with connection(port) as listener, connection(port) as stuck:
        assert await listener.connect("listener") == 0
        assert await listener.subscribe(("will", 0)) == [0]
        assert await stuck.connect("stuck", will=Will("will", b"stuck")) == 0
        assert await stuck.subscribe(("big", 0)) == [0]
        await publish(port, "big", *[bytes(900_000)] * 20)
        assert (await listener.message()).payload == b"stuck"


async def test_a_client_waits_when_its_messages_wait(hooks: Hooks, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the hooks hold a verdict back, no more is read from that client; afterwards everything is decided, in order."""
    monkeypatch.setattr(client, "_UNDECIDED", 2)
    read: list[int] = []
    original = streams.ClientReader.read

    async def counted(self: streams.ClientReader, n: int = -1) -> bytes:
        data = await original(self, n)
        read.append(n)
        return data

    monkeypatch.setattr(streams.ClientReader, "read", counted)
    verdict = asyncio.Event()
    hooks.answer = lambda asked: ALLOW if asked.is_login else Reply(hold=verdict)
    async with connection(port) as device:
        assert await device.connect("device") == 0
        for number in range(50):
            device.send(publish_packet(f"t/{number}", bytes(100_000)))
        await wait_until(lambda: hooks.questions != [])
        async with connection(port) as other:
            assert await other.connect("other") == 0
            assert await is_in(other)
        assert read.count(100_000) < 10
        verdict.set()
        await wait_until(lambda: len(hooks.questions) == 50)
    assert hooks.questions == [("publish", f"t/{number}") for number in range(50)]


async def test_who_sends_no_connect_is_dropped(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that says nothing ends at the deadline."""
    monkeypatch.setattr(door, "_CONNECT_TIMEOUT", 0.1)
    async with connection(port) as device:
        assert await device.closed() == b""
