"""Packets at the embedded broker: broken ones end the connection, and usual ones do what the protocol says."""

from __future__ import annotations

import pytest

from tests.broker.embedded_broker import is_in, port, publish
from tests.broker.embedded_client import Will, connect_packet, packet, publish_packet, subscribe_packet
from tests.broker.embedded_client import client as connection
from tests.broker.embedded_hooks import ALLOW, DENY, Asked, Hooks, Reply, hooks
from tests.support.subscriber import subscriber
from tests.support.waiting import wait_until

__all__ = ["hooks", "port"]


@pytest.mark.parametrize(
    "broken",
    [
        publish_packet("$SYS/x"),
        publish_packet("a/+"),
        publish_packet("a/#"),
        publish_packet(""),
        publish_packet("a\0b"),
        publish_packet("a", qos=3),
        publish_packet("a", qos=1, packet_id=0),
        packet(0x38, b"\0\x01a"),
        packet(0x30, b"\0\x01\xff"),
        packet(0x30, b"\0\x09a"),
        packet(0x30, b"\0"),
        packet(0x32, b"\0\x01a\0"),
        publish_packet("a", bytes(1024 * 1024)),
        subscribe_packet([("a", 3)]),
        subscribe_packet([("", 0)]),
        subscribe_packet([]),
        subscribe_packet([("a", 0)], packet_id=0),
        packet(0x82, b"\0\x01\0\x01a"),
        packet(0x82, b"\0\x01\0\x01\xff\0"),
        packet(0x80, b"\0\x01\0\x01a\0"),
        packet(0xA2, b"\0\x01"),
        packet(0x40, b"\0"),
        packet(0xE0, b"\0"),
        packet(0x20, b"\0\0"),
        packet(0xF0, b""),
        connect_packet("device"),
        b"\x30\xff\xff\xff\xff\xff",
    ],
    ids=[
        "$ topic", "+ in topic", "# in topic", "no topic", "NUL", "QoS 3", "identifier 0", "DUP at QoS 0", "not UTF-8",
        "topic cut short", "no length", "identifier cut short", "too large", "filter QoS 3", "empty filter", "no filter",
        "SUBSCRIBE identifier 0", "no QoS", "filter not UTF-8", "SUBSCRIBE flags", "UNSUBSCRIBE nothing", "short PUBACK",
        "long DISCONNECT", "CONNACK", "reserved", "second CONNECT", "endless length",
    ],
)  # fmt: skip
async def test_a_broken_packet_ends_the_connection(hooks: Hooks, port: int, broken: bytes) -> None:
    """What breaks the protocol closes the connection, unasked; the packet before it counts, the one behind it does not."""
    async with connection(port) as device:
        assert await device.connect("device") == 0
        device.send(publish_packet("before"), broken, publish_packet("behind"))
        await device.closed()
    await publish(port, "later", b"")
    assert hooks.questions == [("publish", "before"), ("publish", "later")]


async def test_what_follows_a_broken_packet_is_not_left_to_the_next_connection(hooks: Hooks, port: int) -> None:
    """A session that goes on after a broken packet begins where the connection ended."""
    async with connection(port) as device:
        assert await device.connect("device", clean=False) == 0
        device.send(publish_packet("$SYS/x"), *(publish_packet("behind") for _ in range(200)))
        await device.closed()
    async with connection(port) as device:
        assert await device.connack("device", clean=False) == (True, 0)
        assert await is_in(device)
        await device.goodbye()
    assert hooks.questions == []


@pytest.mark.parametrize(
    ("first", "answer"),
    [
        (connect_packet("a", level=5), b"\x20\x02\x00\x01"),
        (connect_packet("a", level=3), b"\x20\x02\x00\x01"),
        (packet(0x10, b"\0\x06MQIsdp\x03\x02\0\0\0\x01a"), b"\x20\x02\x00\x01"),
        (connect_packet("", clean=False), b"\x20\x02\x00\x02"),
        (connect_packet(b"\xff", "alice"), b"\x20\x02\x00\x05"),
        (connect_packet("a", b"\xff"), b"\x20\x02\x00\x05"),
        (connect_packet("a", "alice", b"\xff"), b"\x20\x02\x00\x05"),
        (packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x09a"), b"\x20\x02\x00\x05"),
        (packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01a stray"), b"\x20\x02\x00\x05"),
        (connect_packet("a", None), b""),
        (connect_packet("a", will=Will("a/#")), b""),
        (connect_packet("a", will=Will("a", qos=3)), b""),
        (packet(0x10, b"\0\x04MQTT\x04\x03\0\0\0\x01a"), b""),
        (packet(0x10, b"\0\x04MQTT\x04\x0a\0\0\0\x01a"), b""),
        (packet(0x10, b"\0\x04HTTP\x04\x02\0\0\0\x01a"), b""),
        (packet(0x10, b""), b""),
        (b"\x10\xff\xff\xff\x7f", b""),
        (b"\x10\x80\x80\x80\x80\x80", b""),
        (publish_packet("a"), b""),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
    ],
    ids=[
        "MQTT 5", "level 3", "MQTT 3.1", "no client id for a session", "client id not UTF-8", "user not UTF-8",
        "password not UTF-8", "cut short", "stray bytes", "password without user", "will with wildcard", "will QoS 3",
        "reserved flag", "will QoS without will", "another protocol", "empty", "too large", "endless length", "no CONNECT", "HTTP",
    ],
)  # fmt: skip
async def test_a_connect_that_is_none_is_not_asked_about(hooks: Hooks, port: int, first: bytes, answer: bytes) -> None:
    """Other versions are told so at once, bytes that are not UTF-8 are refused as EMQX does, broken packets end in silence."""
    async with connection(port) as device:
        device.send(first)
        assert await device.closed() == answer
    assert hooks.asked == []


async def test_a_usual_client_works(hooks: Hooks, port: int) -> None:
    """A client of gmqtt subscribes, receives and unsubscribes like with any broker of MQTT 3.1.1."""

    def answer(asked: Asked) -> Reply:
        return (
            ALLOW if asked.is_login or asked.fields["topic"] == "a/#" or asked.fields["action"] == "publish" else DENY
        )

    hooks.answer = answer
    async with subscriber(port, "a/#", protocol="3.1.1") as inbox:
        await publish(port, "a/b", b"1", b"2")
        await wait_until(lambda: inbox.payloads == [b"1", b"2"])


async def test_an_unsubscribed_filter_delivers_no_more(port: int) -> None:
    """UNSUBSCRIBE is acknowledged and ends the deliveries."""
    async with connection(port) as device:
        assert await device.connect("device") == 0
        assert await device.subscribe(("a", 0), ("b", 0)) == [0, 0]
        await device.unsubscribe("a")
        await device.publish("a", b"1")
        await device.publish("b", b"2")
        assert (await device.message()).payload == b"2"
