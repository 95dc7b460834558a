"""Acknowledged delivery to a broker that is well: order, properties, both versions, both event loops."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Literal

import pytest
import uvloop
from amqtt.broker import Broker

from companion.core.errors import Transient
from publishers.delivery import Delivery
from publishers.mqtt_delivery import MqttDelivery
from tests.support.mosquitto import Mosquitto, free_port
from tests.support.publishing import Seen, message, mqtt_config
from tests.support.subscriber import subscriber
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

Version = Literal["5", "3.1.1"]


async def deliver_in_turn(delivery: Delivery, topic: str, count: int) -> None:
    """Deliver numbered messages, each after the acknowledgement of the one before."""
    for number in range(count):
        await delivery.deliver(message(topic, str(number).encode()))


async def deliver_from_ten_callers(port: int, version: Version) -> Seen:
    """Deliver 1,000 messages: 10 callers, 100 each in turn."""
    seen = Seen()
    async with MqttDelivery(mqtt_config(port, protocol=version), seen) as delivery, asyncio.TaskGroup() as callers:
        for caller in range(10):
            callers.create_task(deliver_in_turn(delivery, f"caller/{caller}", 100))
    return seen


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_1000_messages_arrive_in_order_per_caller(version: Version) -> None:
    """1,000 messages of 10 concurrent callers arrive once each, in each caller's order, in both protocol versions."""
    async with Mosquitto() as broker, subscriber(broker.port, protocol=version) as inbox:
        seen = await deliver_from_ten_callers(broker.port, version)
        await wait_until(lambda: len(inbox.messages) >= 1000)
    by_topic = defaultdict(list)
    for received in inbox.messages:
        by_topic[received.topic].append(int(received.payload))
    assert by_topic == {f"caller/{caller}": list(range(100)) for caller in range(10)}
    assert len(seen.latencies) == 1000
    assert min(seen.latencies) > 0
    assert (seen.connections, seen.ends, seen.refusals) == (1, ["closed"], [])


async def test_the_same_under_uvloop() -> None:
    """The delivery runs on uvloop as it does on asyncio's own loop."""
    async with Mosquitto() as broker, subscriber(broker.port) as inbox:
        await asyncio.to_thread(uvloop.run, deliver_from_ten_callers(broker.port, "5"))
        await wait_until(lambda: len(inbox.messages) >= 1000)
    assert len(inbox.messages) == 1000


async def test_callers_who_do_not_wait_for_each_other_keep_their_order() -> None:
    """200 deliveries begun one after the other through a small window leave in that order."""
    async with (
        Mosquitto() as broker,
        subscriber(broker.port) as inbox,
        MqttDelivery(mqtt_config(broker.port, window=7)) as delivery,
    ):
        await asyncio.gather(*(delivery.deliver(message("t", str(number).encode())) for number in range(200)))
        await wait_until(lambda: len(inbox.messages) >= 200)
    assert inbox.payloads == [str(number).encode() for number in range(200)]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_qos_2_goes_to_its_end(version: Version) -> None:
    """QoS 2 messages pass PUBREC, PUBREL and PUBCOMP, and arrive as QoS 2, once each."""
    async with (
        Mosquitto() as broker,
        subscriber(broker.port, qos=2) as inbox,
        MqttDelivery(mqtt_config(broker.port, protocol=version)) as delivery,
    ):
        await asyncio.gather(*(delivery.deliver(message("t", str(number).encode(), qos=2)) for number in range(100)))
        assert broker.log.count("Sending PUBCOMP to publisher") == 100
        await wait_until(lambda: len(inbox.messages) >= 100)
    assert inbox.payloads == [str(number).encode() for number in range(100)]
    assert {received.qos for received in inbox.messages} == {2}


async def test_an_independent_client_sees_every_property() -> None:
    """Content type, user properties in their order, expiry and retain arrive as mosquitto's own subscriber shows them."""
    async with Mosquitto() as broker, MqttDelivery(mqtt_config(broker.port)) as delivery:
        pairs = (("event-id", "e-1"), ("op", "update"), ("op", "ünïcode ✓"))
        await delivery.deliver(message("ü/t", b'{"a": 1}', retain=True, expiry=1234, user_properties=pairs))
        shown = "%t|%p|%q|%r|%C|%P|%E"
        client = await asyncio.create_subprocess_exec(
            *(
                "mosquitto_sub",
                "-V",
                "5",
                "-p",
                str(broker.port),
                "-t",
                "#",
                "-q",
                "1",
                "-C",
                "1",
                "-W",
                "10",
                "-F",
                shown,
            ),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await client.communicate()
    *fields, expiry = output.decode().strip().split("|")
    assert fields == ["ü/t", '{"a": 1}', "1", "1", "application/json", "event-id:e-1 op:update op:ünïcode ✓"]
    assert 1200 < int(expiry) <= 1234


async def test_a_message_without_properties() -> None:
    """Without expiry, content type and user properties none of them is sent."""
    async with (
        Mosquitto() as broker,
        subscriber(broker.port) as inbox,
        MqttDelivery(mqtt_config(broker.port)) as delivery,
    ):
        await delivery.deliver(message("t", b"", expiry=None, content_type="", user_properties=()))
        await wait_until(lambda: inbox.messages)
    assert inbox.messages[0].payload == b""
    assert inbox.messages[0].properties == {"dup": 0, "retain": 0}


async def test_no_delivery_outside_the_context() -> None:
    """Before entering and after leaving, `deliver` fails with `Transient` instead of waiting for ever."""
    async with Mosquitto() as broker:
        delivery = MqttDelivery(mqtt_config(broker.port))
        assert (delivery.connected, delivery.trouble) == (False, "not started")
        with pytest.raises(Transient):
            await delivery.deliver(message("t"))
        async with delivery:
            await delivery.deliver(message("t"))
            assert (delivery.connected, delivery.trouble) == (True, None)
        assert (delivery.connected, delivery.trouble) == (False, "closed")
        with pytest.raises(Transient):
            await delivery.deliver(message("t"))
        await wait_until(lambda: "Received DISCONNECT from publisher" in broker.log)


async def test_another_broker_that_speaks_3_1_1_only() -> None:
    """QoS 1 and QoS 2 reach a subscriber of amqtt, in order."""
    port = free_port()
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    broker = Broker({"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}, "plugins": plugins})
    await broker.start()
    try:
        async with (
            subscriber(port, qos=2, protocol="3.1.1") as inbox,
            MqttDelivery(mqtt_config(port, protocol="3.1.1")) as delivery,
        ):
            for number in range(100):
                await delivery.deliver(message("t", str(number).encode(), qos=2 if number % 2 else 1))
            await wait_until(lambda: len(inbox.messages) >= 100)
    finally:
        await broker.shutdown()
    assert inbox.payloads == [str(number).encode() for number in range(100)]
