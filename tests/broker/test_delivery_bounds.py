"""What bounds a delivery: windows, limits of the broker and of the format, refusals, cancellation."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from companion.core.errors import Permanent
from publishers.delivery import Refused, Unsendable
from publishers.mqtt_delivery import MqttDelivery
from publishers.mqtt_encoding import encode
from tests.support.mosquitto import Mosquitto, free_port
from tests.support.publishing import Seen, message, mqtt_config
from tests.support.subscriber import subscriber
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.mark.parametrize("announced", [1, 3])
async def test_the_brokers_receive_maximum_is_honoured(announced: int) -> None:
    """However many wait, no more are in flight than the broker takes (MQTT 5 §3.2.2.3.3), also if that is one."""
    seen = Seen()
    lines = [f"max_inflight_messages {announced}"]
    async with Mosquitto(config_lines=lines) as broker, MqttDelivery(mqtt_config(broker.port), seen) as delivery:
        await delivery.deliver(message("t"))
        broker.freeze()
        async with asyncio.TaskGroup() as callers:
            for number in range(50):
                callers.create_task(delivery.deliver(message("t", str(number).encode(), qos=2 if number % 2 else 1)))
            await wait_until(lambda: delivery.waiting == 50 - announced)
            assert delivery.in_flight == announced
            broker.thaw()
        assert (delivery.in_flight, delivery.waiting) == (0, 0)
    assert (len(seen.latencies), seen.ends) == (51, ["closed"])


async def test_our_own_window_is_honoured() -> None:
    """A window below the broker's receive maximum is ours to keep."""
    async with Mosquitto() as broker, MqttDelivery(mqtt_config(broker.port, window=2)) as delivery:
        await delivery.deliver(message("t"))
        broker.freeze()
        async with asyncio.TaskGroup() as callers:
            for _ in range(5):
                callers.create_task(delivery.deliver(message("t")))
            await wait_until(lambda: (delivery.in_flight, delivery.waiting) == (2, 3))
            broker.thaw()


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_refused_message_is_told_from_an_acknowledged_one(qos: Literal[1, 2]) -> None:
    """A PUBACK or PUBREC with 0x87 raises `Refused` for that message, and only for that one."""
    seen = Seen()
    async with Mosquitto(autostart=False) as broker:
        (broker.folder / "acl").write_text("topic write open/#\n")
        broker.add_config(f"acl_file {broker.folder}/acl")
        await broker.start()
        async with MqttDelivery(mqtt_config(broker.port), seen) as delivery:
            topics = [f"{'open' if number % 2 else 'closed'}/{number}" for number in range(40)]
            outcomes = await asyncio.gather(
                *(delivery.deliver(message(topic, qos=qos)) for topic in topics), return_exceptions=True
            )
            assert delivery.connected
    for topic, outcome in zip(topics, outcomes, strict=True):
        if topic.startswith("open"):
            assert outcome is None
        else:
            assert isinstance(outcome, Refused)
            assert not isinstance(outcome, Permanent)
            assert (outcome.reason_code, outcome.reason_name) == (0x87, "not authorized")
            assert str(outcome) == "0x87 not authorized"
    assert seen.refusals == [0x87] * 20


@pytest.mark.parametrize(
    ("line", "qos", "retain", "size", "code"),
    [
        ("max_packet_size 1000", 1, False, 1000, 0x95),
        ("max_qos 1", 2, False, 10, 0x9B),
        ("retain_available false", 1, True, 10, 0x9A),
    ],
)
async def test_what_the_broker_rules_out_is_not_sent(
    line: str,
    qos: Literal[1, 2],
    retain: bool,  # noqa: FBT001 - a case of the table
    size: int,
    code: int,
) -> None:
    """What CONNACK ruled out fails at once with the fitting reason code, and the connection stays."""
    seen = Seen()
    async with Mosquitto(config_lines=[line]) as broker, MqttDelivery(mqtt_config(broker.port), seen) as delivery:
        with pytest.raises(Unsendable) as caught:
            await delivery.deliver(message("t", bytes(size), qos=qos, retain=retain))
        await delivery.deliver(message("t", bytes(10)))
    assert caught.value.reason_code == code
    assert isinstance(caught.value, Permanent)
    assert seen.refusals == [code]
    assert seen.connections == 1


async def test_a_packet_of_exactly_the_brokers_maximum_is_sent() -> None:
    """The maximum packet size counts the whole packet; one byte more is too many."""
    async with (
        Mosquitto(config_lines=["max_packet_size 1000"]) as broker,
        MqttDelivery(mqtt_config(broker.port)) as delivery,
    ):
        around = len(encode(message("t", bytes(900)), 5).data) - 900
        await delivery.deliver(message("t", bytes(1000 - around)))
        with pytest.raises(Unsendable):
            await delivery.deliver(message("t", bytes(1001 - around)))


async def test_a_cancelled_delivery_is_withdrawn() -> None:
    """A caller that is cancelled while waiting or in flight takes its message along: it is never sent, or not again."""
    async with Mosquitto() as broker:
        async with MqttDelivery(mqtt_config(broker.port, window=2)) as delivery:
            await delivery.deliver(message("before", retain=True))
            broker.freeze()
            callers = [
                asyncio.create_task(delivery.deliver(message(f"t/{number}", retain=True))) for number in range(4)
            ]
            await wait_until(lambda: (delivery.in_flight, delivery.waiting) == (2, 2))
            callers[0].cancel()
            callers[2].cancel()
            await asyncio.wait({callers[0], callers[2]})
            assert (delivery.in_flight, delivery.waiting) == (2, 1)
            await broker.kill()
            await broker.start()
            await asyncio.gather(callers[1], callers[3])
        async with subscriber(broker.port) as inbox:
            await wait_until(lambda: len(inbox.messages) >= 2)
            assert sorted(received.topic for received in inbox.messages) == ["t/1", "t/3"]
    assert callers[0].cancelled()
    assert callers[2].cancelled()


async def test_an_acknowledgement_that_nobody_awaits_any_more() -> None:
    """A caller that is cancelled in flight leaves its place in the window to the next when the acknowledgement comes."""
    async with Mosquitto() as broker, MqttDelivery(mqtt_config(broker.port, window=1)) as delivery:
        await delivery.deliver(message("t"))
        broker.freeze()
        first, second = (asyncio.create_task(delivery.deliver(message("t"))) for _ in range(2))
        await wait_until(lambda: (delivery.in_flight, delivery.waiting) == (1, 1))
        first.cancel()
        await asyncio.wait({first})
        assert (delivery.in_flight, delivery.waiting) == (1, 1)
        broker.thaw()
        await second
        assert delivery.in_flight == 0


async def test_what_breaks_the_format_is_not_sent() -> None:
    """A message that no broker would take fails at once, connected or not."""
    seen = Seen()
    async with MqttDelivery(mqtt_config(free_port()), seen) as delivery:
        with pytest.raises(Unsendable) as caught:
            await delivery.deliver(message("a/+"))
        assert (delivery.in_flight, delivery.waiting) == (0, 0)
    assert caught.value.reason_code == 0x90
    assert str(caught.value).startswith("0x90 topic name invalid (topic: 'a/+' is not allowed")
    assert seen.refusals == [0x90]


async def test_a_message_is_not_sent_once_its_caller_is_cancelled() -> None:
    """Room in the window that appears between the cancellation and its effect on the caller is not used for its message."""
    async with Mosquitto() as broker, MqttDelivery(mqtt_config(broker.port, window=1)) as delivery:
        await delivery.deliver(message("t"))
        broker.freeze()
        first, second = (asyncio.create_task(delivery.deliver(message(topic))) for topic in ("first", "second"))
        await wait_until(lambda: (delivery.in_flight, delivery.waiting) == (1, 1))
        assert delivery._flight is not None
        second.cancel()
        delivery._flight.window = 2
        delivery._send_waiting()
        assert (delivery.in_flight, delivery.waiting) == (1, 0)
        broker.thaw()
        await asyncio.wait({first, second})
    assert second.cancelled()
    assert "'second'" not in broker.log
