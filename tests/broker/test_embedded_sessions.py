"""The embedded broker keeps sessions apart, loses nothing that it has acknowledged, and sets limits to what a client may cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from amqtt.contexts import Action
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import Session

from companion.embedded import EmbeddedBroker, EmbeddedBrokerConfig, client, door, mqtt_core, streams
from tests.broker.embedded_client import (
    CONNACK,
    DISCONNECT_PACKET,
    PING_PACKET,
    PINGRESP,
    Message,
    RawClient,
    Will,
    connect_packet,
    packet,
    publish_packet,
    subscribe_packet,
)
from tests.broker.embedded_client import client as connection
from tests.broker.embedded_hooks import ALLOW, DENY, Asked, Hooks, Reply, allowed, nothing_left, running_hooks
from tests.support.subscriber import subscriber
from tests.support.waiting import wait_until


@pytest.fixture
async def hooks() -> AsyncIterator[Hooks]:
    async with nothing_left(), running_hooks() as running:
        yield running


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


@pytest.mark.parametrize("qos", [0, 1])
async def test_what_came_before_a_goodbye_is_delivered_in_order(hooks: Hooks, port: int, qos: int) -> None:
    """200 publishes and a DISCONNECT in one segment: amqtt acknowledges before it asks, and all of them arrive."""
    payloads = [b"%d" % number for number in range(200)]
    async with connection(port) as listener, connection(port) as device:
        assert await listener.connect("listener") == 0
        assert await listener.subscribe(("#", 0)) == [0]
        assert await device.connect("hasty", will=Will("will")) == 0
        device.send(
            *(publish_packet("a", payload, qos=qos, packet_id=n + 1) for n, payload in enumerate(payloads)),
            DISCONNECT_PACKET,
        )
        if qos == 0:
            await device.close()
        else:
            acknowledged = await device.closed()
            assert len(acknowledged) == 4 * len(payloads)
        assert [(await listener.message()).payload for _ in payloads] == payloads
    assert hooks.questions == [("subscribe", "#"), *[("publish", "a")] * len(payloads)]


async def test_subscribing_meanwhile_loses_nobody_a_message(port: int) -> None:
    """Deliveries go on while others subscribe and unsubscribe."""
    payloads = [b"%d" % number for number in range(200)]
    async with connection(port) as listener, connection(port) as restless:
        assert await listener.connect("listener") == 0
        assert await listener.subscribe(("a", 1)) == [1]
        assert await restless.connect("restless") == 0
        publishing = asyncio.ensure_future(publish(port, "a", *payloads))
        number = 0
        while not publishing.done():
            number += 1
            await restless.subscribe((f"other/{number}/#", 0))
            await restless.unsubscribe(f"other/{number}/#")
        await publishing
        assert [(await listener.message()).payload for _ in payloads] == payloads


async def test_a_delivery_is_decided_without_waiting() -> None:
    """The verdict about a delivery comes in the same turn of the loop: amqtt walks its subscriptions meanwhile."""
    deciding = mqtt_core.MqttCore()._topic_filtering(Session(), "a", Action.RECEIVE)
    with pytest.raises(StopIteration) as decided:
        deciding.send(None)
    assert decided.value.value is True


async def test_retained_messages_go_to_new_subscriptions_only(port: int) -> None:
    """A client that connects is not sent what others have subscribed to."""
    await publish(port, "secret", b"retained", retain=True)
    await leave_session(port, "other", "other", "secret")
    async with connection(port) as device:
        assert await device.connect("curious", "mallory") == 0
        assert await is_in(device)
        assert await device.subscribe(("mine", 0)) == [0]
        assert await is_in(device)
        assert device.messages == []
        assert await device.subscribe(("secret", 0)) == [0]
        assert (await device.message()).payload == b"retained"


async def test_a_session_waits_for_its_user(port: int) -> None:
    """Messages for an absent client with a session arrive when it comes back, and the CONNACK says that the session is there."""
    await leave_session(port, "device")
    await publish(port, "a", b"1", b"2")
    async with connection(port) as device:
        assert await device.connack("device", clean=False) == (True, 0)
        assert [(await device.message()).payload for _ in range(2)] == [b"1", b"2"]
        await publish(port, "a", b"3")
        assert (await device.message()).payload == b"3"


async def test_a_session_is_not_for_another_user_nor_for_a_clean_start(port: int) -> None:
    """Another user with the same client id, and a clean session, begin without subscriptions and messages."""
    for username, clean in (("mallory", False), ("alice", True)):
        await leave_session(port, "device")
        await publish(port, "a", b"for alice")
        async with connection(port) as device:
            assert await device.connack("device", username, clean=clean) == (False, 0)
            await publish(port, "a", b"more")
            assert await is_in(device)
            assert device.messages == []
            await device.goodbye()


async def test_a_clean_session_leaves_nothing(port: int) -> None:
    """Who comes at once after a clean session of the same client id finds no session, subscribed or not."""
    async with connection(port) as device:
        assert await device.connect("device") == 0
        assert await device.subscribe(("a", 1)) == [1]
        await device.goodbye()
    async with connection(port) as device:
        assert await device.connack("device", clean=False) == (False, 0)


async def test_who_is_refused_changes_nothing(hooks: Hooks, port: int) -> None:
    """A CONNECT with a wrong password neither ends nor touches the connection and the session of that client id."""
    hooks.answer = lambda asked: DENY if asked.is_login and asked.fields["password"] == "wrong" else ALLOW
    for clean in (True, False):
        async with connection(port) as device:
            assert await device.connect("device", clean=False) == 0
            assert await device.subscribe(("a", 0)) == [0]
            async with connection(port) as intruder:
                assert await intruder.connect("device", "admin", "wrong", clean=clean) == 5
            await device.publish("a", b"still here")
            assert (await device.message()).payload == b"still here"
    assert {asked.fields["username"] for asked in hooks.asked if not asked.is_login} == {"alice"}


@pytest.mark.parametrize("clean", [True, False])
async def test_a_client_id_is_inside_once(hooks: Hooks, port: int, clean: bool) -> None:  # noqa: FBT001 - a parameter
    """A new connection ends the one before, will included, before it begins (MQTT-3.1.4-2)."""
    async with connection(port) as listener, connection(port) as old, connection(port) as new:
        assert await listener.connect("listener") == 0
        assert await listener.subscribe(("#", 0)) == [0]
        assert await old.connect("device", clean=clean, will=Will("will", b"old")) == 0
        assert await new.connack("device", clean=clean, will=Will("will", b"new")) == (not clean, 0)
        assert await old.closed() == b""
        assert await listener.message() == Message("will", b"old", 0, retain=False)
        await new.goodbye()
    assert hooks.questions == [("subscribe", "#"), ("publish", "will")]


async def test_every_question_is_asked_for_who_sent_the_packet(hooks: Hooks, port: int) -> None:
    """A message that waits for its verdict is asked about in its sender's name, whoever takes the client id over meanwhile."""
    verdict = asyncio.Event()
    hooks.answer = lambda asked: ALLOW if asked.is_login else Reply(hold=verdict)
    async with connection(port) as old, connection(port) as new:
        assert await old.connect("device", "mallory", clean=False) == 0
        await old.publish("a", b"1", qos=1)
        await old.publish("a", b"2", qos=1)
        new.send(connect_packet("device", "alice", clean=False))
        await wait_until(lambda: len(hooks.logins) == 2)
        verdict.set()
        assert (await new.expect(2))[1] == 0
    assert [asked.fields["username"] for asked in hooks.asked if not asked.is_login] == ["mallory", "mallory"]


async def test_a_takeover_does_not_wait_for_verdicts_that_never_come(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the deadline, messages without a verdict are dropped, not decided by what the next connection may do."""
    monkeypatch.setattr(door, "_GRACE", 0.1)
    monkeypatch.setattr(client, "_UNDECIDED", 5)
    never = asyncio.Event()
    hooks.answer = lambda asked: ALLOW if asked.is_login else Reply(hold=never)
    config = EmbeddedBrokerConfig(port=0, hooks_url=hooks.url, request_timeout=0.3)
    async with EmbeddedBroker(config) as broker, connection(broker.port) as old, connection(broker.port) as new:
        assert await old.connect("device", clean=False) == 0
        old.send(*(publish_packet("a") for _ in range(50)))
        await wait_until(lambda: hooks.questions != [])
        hooks.answer = lambda asked: allowed(is_superuser=True) if asked.is_login else Reply(hold=never)
        assert await new.connack("device", clean=False) == (True, 0)
        assert await new.subscribe(("a", 0)) == [0]
        assert await is_in(new)
        assert new.messages == []


async def test_a_connection_that_is_ended_sends_nothing_more(
    hooks: Hooks, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packets that have arrived but wait behind others are not looked at once the broker has hung up."""
    monkeypatch.setattr(client, "_UNDECIDED", 2)
    verdict = asyncio.Event()
    hooks.answer = lambda asked: ALLOW if asked.is_login else Reply(hold=verdict)
    async with connection(port) as old, connection(port) as new:
        assert await old.connect("device") == 0
        old.send(publish_packet("first"), *(publish_packet("a", bytes(100)) for _ in range(200)))
        await wait_until(lambda: hooks.questions != [])
        new.send(connect_packet("device"))
        await old.closed()
        verdict.set()
        assert (await new.expect(CONNACK))[1] == 0
    assert len(hooks.questions) < 10


async def test_messages_for_a_session_are_kept_while_its_last_words_are_decided(hooks: Hooks, port: int) -> None:
    """Between the end of a connection and the verdict about its last publish, its messages wait for the next connection."""
    verdict = asyncio.Event()
    hooks.answer = lambda asked: Reply(hold=verdict) if asked.fields.get("topic") == "last" else ALLOW
    async with connection(port) as device:
        assert await device.connect("device", clean=False) == 0
        assert await device.subscribe(("a", 1)) == [1]
        device.send(publish_packet("last"), DISCONNECT_PACKET)
        await wait_until(lambda: ("publish", "last") in hooks.questions)
    await publish(port, "a", b"kept")
    async with connection(port) as device:
        device.send(connect_packet("device", clean=False))
        await wait_until(lambda: len(hooks.logins) == 3)
        verdict.set()
        assert await device.expect(CONNACK) == b"\x01\x00"
        assert (await device.message()).payload == b"kept"


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


async def test_who_sends_no_connect_is_dropped(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that says nothing ends at the deadline."""
    monkeypatch.setattr(door, "_CONNECT_TIMEOUT", 0.1)
    async with connection(port) as device:
        assert await device.closed() == b""


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
