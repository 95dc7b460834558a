"""The embedded broker keeps sessions apart, and loses nothing that it has acknowledged."""

from __future__ import annotations

import asyncio

import pytest
from amqtt.contexts import Action
from amqtt.session import Session

from companion.embedded import EmbeddedBroker, EmbeddedBrokerConfig, client, door, mqtt_core
from tests.broker.embedded_broker import is_in, leave_session, port, publish
from tests.broker.embedded_client import CONNACK, DISCONNECT_PACKET, Message, Will, connect_packet, publish_packet
from tests.broker.embedded_client import client as connection
from tests.broker.embedded_hooks import ALLOW, DENY, Hooks, Reply, allowed, hooks
from tests.support.waiting import wait_until

__all__ = ["hooks", "port"]


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
