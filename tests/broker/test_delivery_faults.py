"""Acknowledged delivery to a broker that comes and goes: nothing lost, order kept, the reason told."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from companion.core.errors import Transient
from publishers.delivery import Delivery, Refused
from publishers.mqtt_delivery import MqttDelivery
from tests.support.certificates import make_certificate
from tests.support.mosquitto import Mosquitto, free_port
from tests.support.publishing import Seen, message, mqtt_config
from tests.support.subscriber import subscriber
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def state(delivery: Delivery) -> tuple[bool, str | None]:
    """Return what readiness looks at."""
    return (delivery.connected, delivery.trouble)


async def test_a_broker_that_restarts_loses_nothing() -> None:
    """Two clean restarts in the middle of 2,000 messages: all arrive, in each caller's order once repeats are dropped."""
    seen = Seen()
    delivered: list[str] = []

    async def caller(name: str) -> None:
        for number in range(200):
            await delivery.deliver(message(name, str(number).encode()))
            delivered.append(name)

    async with (
        Mosquitto(persistent=True, config_lines=["max_queued_messages 0"]) as broker,
        subscriber(broker.port) as inbox,
        MqttDelivery(mqtt_config(broker.port), seen) as delivery,
    ):
        async with asyncio.TaskGroup() as callers:
            for index in range(10):
                callers.create_task(caller(f"caller/{index}"))
            for share in (500, 1200):
                await wait_until(lambda share=share: len(delivered) >= share)  # type: ignore[misc] # a default binds it
                await broker.restart()
        await wait_until(lambda: len({(got.topic, got.payload) for got in inbox.messages}) == 2000)
    by_topic: dict[str, dict[int, None]] = defaultdict(dict)
    for got in inbox.messages:
        by_topic[got.topic].setdefault(int(got.payload))
    assert all(list(numbers) == list(range(200)) for numbers in by_topic.values())
    assert seen.connections == 3


async def test_a_killed_broker_gets_everything_unacknowledged_again() -> None:
    """After `kill -9` all that was in flight or waiting is published to the next broker, in the original order."""
    async with Mosquitto() as broker, MqttDelivery(mqtt_config(broker.port)) as delivery:
        await delivery.deliver(message("acknowledged", retain=True))
        broker.freeze()
        async with asyncio.TaskGroup() as callers:
            for number in range(100):
                callers.create_task(delivery.deliver(message(f"t/{number}", retain=True, qos=2 if number % 3 else 1)))
            await wait_until(lambda: (delivery.in_flight, delivery.waiting) == (20, 80))
            await broker.kill()
            await broker.start()
        async with subscriber(broker.port) as inbox:
            await wait_until(lambda: len(inbox.messages) >= 100)
            assert {got.topic for got in inbox.messages} == {f"t/{number}" for number in range(100)}
    taken = [line.split("'")[1] for line in broker.log.splitlines() if "Received PUBLISH from publisher" in line]
    assert taken == ["acknowledged", *(f"t/{number}" for number in range(100))]


async def test_a_frozen_broker_is_given_up_and_found_again() -> None:
    """Without an acknowledgement in time the connection is dropped; the messages arrive when the broker runs again."""
    seen = Seen()
    config = {"ack_timeout": 0.3, "connect_timeout": 0.3}
    async with Mosquitto() as broker, MqttDelivery(mqtt_config(broker.port, **config), seen) as delivery:
        await delivery.deliver(message("t"))
        broker.freeze()
        callers = [asyncio.create_task(delivery.deliver(message(f"t/{number}", retain=True))) for number in range(30)]
        await wait_until(lambda: seen.failures)
        assert seen.ends == [f"no acknowledgement from 127.0.0.1:{broker.port} within 0.3 s"]
        assert seen.failures[0] == f"no answer from 127.0.0.1:{broker.port} within 0.3 s"
        assert state(delivery) == (False, seen.failures[0])
        broker.thaw()
        await asyncio.gather(*callers)
        assert state(delivery) == (True, None)
        async with subscriber(broker.port) as inbox:
            await wait_until(lambda: len(inbox.messages) >= 30)


async def test_a_silent_broker_is_noticed_without_traffic() -> None:
    """An idle connection is kept alive by pings; when they stay unanswered it is given up."""
    seen = Seen()
    config = {"keepalive": 1, "connect_timeout": 0.3}
    async with Mosquitto() as broker, MqttDelivery(mqtt_config(broker.port, **config), seen) as delivery:
        await wait_until(lambda: broker.log.count("Received PINGREQ from publisher") >= 3)
        assert delivery.connected
        broker.freeze()
        await wait_until(lambda: seen.ends)
        broker.thaw()
        await delivery.deliver(message("t"))
    assert seen.ends[0] == f"nothing heard from 127.0.0.1:{broker.port} for 1.5 s"


async def test_nothing_listens_at_first() -> None:
    """Deliveries wait for a broker that is not there yet, and readiness says why."""
    seen = Seen()
    async with Mosquitto(autostart=False) as broker, MqttDelivery(mqtt_config(broker.port), seen) as delivery:
        assert state(delivery) == (False, f"connecting to 127.0.0.1:{broker.port}")
        callers = [asyncio.create_task(delivery.deliver(message("t", str(number).encode()))) for number in range(30)]
        await wait_until(lambda: len(seen.failures) >= 2)
        assert state(delivery) == (False, f"connection refused 127.0.0.1:{broker.port}")
        assert (delivery.in_flight, delivery.waiting) == (0, 30)
        await broker.start()
        await asyncio.gather(*callers)
        assert state(delivery) == (True, None)


async def test_a_wrong_password_is_told_until_it_is_right(tmp_path: Path) -> None:
    """A refused CONNECT is tried again with the secret read anew, and the reason never shows the secret."""
    secret = tmp_path / "password"
    async with Mosquitto(autostart=False) as broker:
        file = broker.folder / "passwords"
        await asyncio.to_thread(
            subprocess.run, ["mosquitto_passwd", "-c", "-b", str(file), "companion", "right-one"], check=True
        )
        broker.add_config("allow_anonymous false", f"password_file {file}")
        await broker.start()
        seen = Seen()
        config = mqtt_config(broker.port, username="companion", password=secret.read_text)
        async with MqttDelivery(config, seen) as delivery:
            await wait_until(lambda: seen.failures)
            assert state(delivery) == (False, f"cannot connect to 127.0.0.1:{broker.port}: No such file or directory")
            secret.write_text("wrong-one")
            await wait_until(lambda: delivery.trouble == "broker refused the connection: 0x87 not authorized")
            secret.write_text("right-one")
            await delivery.deliver(message("t"))
            assert state(delivery) == (True, None)
    assert "-one" not in repr(config) + repr(seen)


async def test_the_refusal_of_mqtt_3_1_1_has_its_own_codes() -> None:
    """MQTT 3.1.1 answers a wrong password with return code 5, which is named too."""
    async with (
        Mosquitto(config_lines=["allow_anonymous false"]) as broker,
        MqttDelivery(mqtt_config(broker.port, protocol="3.1.1")) as delivery,
    ):
        await wait_until(lambda: delivery.trouble == "broker refused the connection: 0x05 not authorized")


async def test_another_client_with_our_identifier_takes_over() -> None:
    """Somebody else with our client identifier ends the connection; we take it back."""
    seen = Seen()
    async with Mosquitto() as broker, MqttDelivery(mqtt_config(broker.port), seen) as delivery:
        await delivery.deliver(message("t"))
        async with subscriber(broker.port, client_id="publisher"):
            await wait_until(lambda: seen.ends)
        await delivery.deliver(message("t"))
    assert seen.connections >= 2


async def test_one_bad_message_does_not_hold_up_the_others() -> None:
    """A message over which the broker disconnects is found by sending one by one, refused, and everything else arrives."""
    seen = Seen()
    async with Mosquitto() as broker, MqttDelivery(mqtt_config(broker.port), seen) as delivery:
        await delivery.deliver(message("t"))
        bad = "/".join("a" * 300)  # mosquitto takes up to 200 levels and hangs up with 0x82 over more
        topics = ["t/0", "t/1", bad, "t/2", "t/3"]
        outcomes = await asyncio.gather(
            *(delivery.deliver(message(topic, retain=True)) for topic in topics), return_exceptions=True
        )
        async with subscriber(broker.port) as inbox:
            await wait_until(lambda: len(inbox.messages) >= 4)
        await asyncio.gather(*(delivery.deliver(message("t")) for _ in range(50)))
    refusal = outcomes.pop(2)
    assert outcomes == [None] * 4
    assert isinstance(refusal, Refused)
    assert refusal.reason_code == 0x82
    assert seen.refusals == [0x82]
    assert seen.ends[-2:] == ["broker disconnected: 0x82 protocol error", "closed"]


@pytest.mark.parametrize("state", ["connected", "frozen", "absent"])
async def test_leaving_while_deliveries_are_pending(state: str) -> None:
    """Leaving fails what is pending with `Transient`, in every state of the broker, and leaves no task."""
    before = asyncio.all_tasks()
    async with Mosquitto(autostart=state != "absent") as broker:
        async with MqttDelivery(mqtt_config(broker.port)) as delivery:
            if state != "absent":
                await delivery.deliver(message("t"))
            if state == "frozen":
                broker.freeze()
            callers = [asyncio.create_task(delivery.deliver(message("t"))) for _ in range(100)]
            await asyncio.sleep(0)  # each of them begins
            assert delivery.in_flight + delivery.waiting == 100
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert asyncio.all_tasks() == before
    failures = [outcome for outcome in outcomes if outcome is not None]
    assert failures
    assert all(isinstance(failure, Transient) for failure in failures)


async def test_leaving_while_the_broker_says_nothing() -> None:
    """Leaving does not wait for a CONNACK that never comes."""
    async with Mosquitto() as broker:
        broker.freeze()
        async with MqttDelivery(mqtt_config(broker.port)) as delivery:
            caller = asyncio.create_task(delivery.deliver(message("t")))
            await wait_until(lambda: delivery.waiting == 1)
        with pytest.raises(Transient):
            await caller


async def test_a_fault_of_the_observer_ends_the_delivery_loudly() -> None:
    """A programming error leaves nobody waiting: deliveries fail, and leaving the context raises it."""

    class Broken(Seen):
        def connected(self) -> None:
            raise ZeroDivisionError

    async def deliver_one(port: int) -> None:
        async with MqttDelivery(mqtt_config(port), Broken()) as delivery:
            with pytest.raises(Transient):
                await delivery.deliver(message("t"))
            assert state(delivery) == (False, "closed")

    async with Mosquitto() as broker:
        with pytest.raises(ZeroDivisionError):
            await deliver_one(broker.port)


async def test_tls(tmp_path: Path) -> None:
    """A certificate of a trusted authority is accepted, another one is told as the trouble."""
    certificate, key = make_certificate(tmp_path, "127.0.0.1")
    lines = [f"certfile {certificate}", f"keyfile {key}"]
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with Mosquitto(config_lines=lines) as broker:
        async with MqttDelivery(mqtt_config(broker.port, tls=trusting)) as delivery:
            await asyncio.gather(*(delivery.deliver(message("t")) for _ in range(100)))
        async with MqttDelivery(mqtt_config(broker.port, tls=ssl.create_default_context())) as delivery:
            started = f"certificate of 127.0.0.1:{broker.port} not accepted: "
            await wait_until(lambda: (delivery.trouble or "").startswith(started))


async def test_a_host_that_does_not_exist() -> None:
    """A name that does not resolve, or is no name at all, is told as the trouble and tried again."""
    for host in ("no-such-host.invalid", "a" * 70):
        seen = Seen()
        async with MqttDelivery(mqtt_config(free_port(), host=host), seen) as delivery:
            await wait_until(lambda: len(seen.failures) >= 2)  # noqa: B023 - awaited within the iteration
            assert (delivery.trouble or "").startswith(f"cannot connect to {host}:")
