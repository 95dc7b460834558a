"""Acknowledged delivery byte by byte: answers that a real broker gives rarely, or never should."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from publishers.delivery import Refused
from publishers.mqtt_connection import Connection
from publishers.mqtt_delivery import MqttDelivery
from tests.support.publishing import Seen, message, mqtt_config
from tests.support.waiting import wait_until
from tests.support.wire import CONNACK, Peer, Script, scripted_broker

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


async def healthy(peer: Peer) -> None:
    """Acknowledge everything, whatever it is."""
    await peer.accept()
    while True:
        await peer.acknowledge()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"\x40\x02\x00\x01", None),  # without a reason code: success (§3.4.2.1)
        (b"\x40\x03\x00\x01\x10", None),  # no matching subscribers
        (b"\x40\x04\x00\x01\x00\x00", None),
        (b"\x40\x02\x00\x07" + b"\x40\x02\x00\x01", None),  # an identifier that is not in use, first
        (b"\xd0\x00" + b"\x40\x02\x00\x01", None),  # a PINGRESP that nobody asked for, first
        (b"\x40\x03\x00\x01\x97", 0x97),
        (b"\x40\x18\x00\x01\x80\x14\x1f\x00\x11because I say so!", 0x80),  # with a reason string
        (b"\x40\x03\x00\x01\xfe", 0xFE),  # a code that the standard does not know
    ],
)
@pytest.mark.parametrize("piece", [1, 1000])
async def test_every_form_of_puback(answer: bytes, outcome: int | None, piece: int) -> None:
    """PUBACK with and without reason code and properties is read, in one piece and byte by byte."""

    async def script(peer: Peer) -> None:
        await peer.accept()
        assert await peer.read_publish() == (0x32, 1)
        for start in range(0, len(answer), piece):
            await peer.send(answer[start : start + piece])
        await peer.until_gone()

    async with scripted_broker([script]) as port, MqttDelivery(mqtt_config(port)) as delivery:
        if outcome is None:
            await delivery.deliver(message("t"))
        else:
            with pytest.raises(Refused) as caught:
                await delivery.deliver(message("t"))
            assert caught.value.reason_code == outcome
        assert delivery.in_flight == 0


@pytest.mark.parametrize(("answer", "outcome"), [(b"\x00\x01", None), (b"\x00\x01\x92", 0x92)])
async def test_a_qos_2_message_counts_when_pubcomp_comes(answer: bytes, outcome: int | None) -> None:
    """PUBREC alone is no acknowledgement; a PUBCOMP with a failure is a refusal."""
    proceed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.accept()
        assert await peer.read_publish() == (0x34, 1)
        await peer.send(b"\x50\x02\x00\x09" + b"\x50\x02\x00\x01")
        assert await peer.read() == (0x62, b"\x00\x01\x00\x00")  # for 1 only: 9 was never sent
        await proceed.wait()
        await peer.send(bytes([0x70, len(answer)]) + answer)
        await peer.until_gone()

    async with scripted_broker([script]) as port, MqttDelivery(mqtt_config(port)) as delivery:
        caller = asyncio.create_task(delivery.deliver(message("t", qos=2)))
        await wait_until(lambda: delivery.in_flight == 1)
        assert not caller.done()
        proceed.set()
        (result,) = await asyncio.gather(caller, return_exceptions=True)
    assert (result.reason_code if isinstance(result, Refused) else result) == outcome


async def test_what_was_sent_once_is_sent_anew() -> None:
    """In the next connection a message begins anew: a fresh identifier and no DUP flag, also after a PUBREC."""

    async def breaks_off(peer: Peer) -> None:
        await peer.accept()
        assert await peer.read_publish() == (0x32, 1)
        assert await peer.read_publish() == (0x34, 2)
        await peer.send(b"\x40\x02\x00\x01" + b"\x50\x02\x00\x02")
        assert (await peer.read())[0] == 0x62

    async def goes_on(peer: Peer) -> None:
        await peer.accept()
        assert await peer.read_publish() == (0x34, 1)
        await peer.send(b"\x50\x02\x00\x01")
        assert await peer.read() == (0x62, b"\x00\x01\x00\x00")
        await peer.send(b"\x70\x02\x00\x01")
        await peer.until_gone()

    async with scripted_broker([breaks_off, goes_on]) as port, MqttDelivery(mqtt_config(port)) as delivery:
        await asyncio.gather(delivery.deliver(message("t")), delivery.deliver(message("t", qos=2)))


@pytest.mark.parametrize(("first", "used"), [(65_533, [65_534, 65_535, 1, 2]), (0, [1, 2, 3, 4])])
async def test_packet_identifiers_wrap_around_those_in_use(first: int, used: list[int]) -> None:
    """Identifiers go from 1 to 65,535 and begin again, leaving out the ones that are still in flight."""
    busy = 3
    identifiers: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        assert await peer.read_publish() == (0x32, busy)
        while True:
            _, identifier = await peer.read_publish()
            identifiers.append(identifier)
            await peer.send(b"\x40\x02" + identifier.to_bytes(2, "big"))
            if len(identifiers) == len(used):
                await peer.send(b"\x40\x02" + busy.to_bytes(2, "big"))

    async with scripted_broker([script]) as port, MqttDelivery(mqtt_config(port)) as delivery:
        await wait_until(lambda: delivery.connected)
        assert delivery._flight is not None
        delivery._flight._last_identifier = busy - 1
        held = asyncio.create_task(delivery.deliver(message("held")))
        await wait_until(lambda: delivery.in_flight == 1)
        delivery._flight._last_identifier = first
        for _ in used:
            await delivery.deliver(message("t"))
        await held
    assert identifiers == [number if number < busy or number > 1000 else number + 1 for number in used]


def sends(data: bytes) -> Script:
    """Return a script that answers CONNECT with these bytes and closes."""

    async def script(peer: Peer) -> None:
        await peer.accept(data)
        await peer.until_gone()

    return script


async def hangs_up(peer: Peer) -> None:
    """Close instead of answering CONNECT."""
    await peer.read()


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        (hangs_up, "connection lost {}"),
        (sends(b"\x20\x03\x00\x86\x00"), "broker refused the connection: 0x86 bad user name or password"),
        (sends(b"\x20\x03\x00\x9f\x00"), "broker refused the connection: 0x9F connection rate exceeded"),
        (
            sends(b"\x20\x02\x00\x01"),
            "broker refused the connection: 0x01 unacceptable protocol version; the broker may speak MQTT 3.1.1 only",
        ),
        (sends(b"\x20\x02\x00\xee"), "broker refused the connection: 0xEE unknown reason"),
        (sends(b"\x20\x01\x00"), "malformed CONNACK from {}"),
        (sends(b"\x20\x05\x00\x00\x02\x7e\x00"), "malformed CONNACK from {}"),  # a property that does not exist
        (sends(b"\x20\x05\x00\x00\x02\x21\x00"), "malformed CONNACK from {}"),  # a property that is cut off
        (sends(b"\x20\x80\x80\x80\x80\x01"), "malformed packet from {}"),  # a length of five bytes
        (sends(b"\x40\x80\x80\x10" + bytes(70_000)), "malformed packet from {}"),  # more than we said that we take
        (sends(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 5), "no answer from {} within 0.5 s"),
        (sends(b"\xe0\x01\x89"), "broker disconnected: 0x89 server busy"),
        (sends(b"\xe0\x00"), "broker disconnected: 0x00 normal disconnection"),
    ],
)
async def test_every_way_not_to_be_accepted(script: Script, trouble: str) -> None:
    """A peer that refuses, hangs up, or is no MQTT broker is told as the trouble; the next one is used."""
    seen = Seen()
    async with (
        scripted_broker([script, healthy]) as port,
        MqttDelivery(mqtt_config(port, connect_timeout=0.5), seen) as d,
    ):
        await d.deliver(message("t"))
    assert seen.failures == [trouble.format(f"127.0.0.1:{port}")]


@pytest.mark.parametrize(
    ("data", "trouble"),
    [
        (b"\xe0\x01\x8b", "broker disconnected: 0x8B server shutting down"),
        (b"\xe0\x01\x8b\x40\x02\x00\x02", "broker disconnected: 0x8B server shutting down"),  # nothing counts after it
        (b"\xe0\x02\x8e\x00", "broker disconnected: 0x8E session taken over"),
        (b"", "connection lost {}"),
        (b"\x40\x80\x80\x80\x80\x01", "malformed packet from {}"),
    ],
)
async def test_every_way_to_lose_a_connection(data: bytes, trouble: str) -> None:
    """The reason of a connection's end is told, and what it had not acknowledged goes over the next one."""
    seen = Seen()

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.acknowledge()
        await peer.read_publish()
        await peer.send(data)

    async with scripted_broker([script, healthy]) as port, MqttDelivery(mqtt_config(port), seen) as delivery:
        await delivery.deliver(message("t"))
        await delivery.deliver(message("t"))
        assert delivery.trouble is None
    assert seen.ends == [trouble.format(f"127.0.0.1:{port}"), "closed"]
    assert seen.connections == 2


async def test_a_lone_message_is_refused_at_the_second_blame() -> None:
    """A broker that disconnects over denied messages (EMQX `deny_action = disconnect`) gets it twice, then it is refused."""
    seen = Seen()

    async def denies(peer: Peer) -> None:
        await peer.accept()
        await peer.read_publish()
        await peer.send(b"\xe0\x01\x87")

    async with scripted_broker([denies, denies, healthy]) as port, MqttDelivery(mqtt_config(port), seen) as delivery:
        with pytest.raises(Refused) as caught:
            await delivery.deliver(message("t"))
        await delivery.deliver(message("t"))
    assert caught.value.reason_code == 0x87
    assert seen.ends == ["broker disconnected: 0x87 not authorized"] * 2 + ["closed"]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("5", b"\x00\x04MQTT\x05\xc2\x00\x1e\x05\x27\x00\x01\x00\x00\x00\x06k\xc3\xb6nig\x00\x01u\x00\x03p\xc3\xa4"),
        ("3.1.1", b"\x00\x04MQTT\x04\xc2\x00\x1e\x00\x06k\xc3\xb6nig\x00\x01u\x00\x03p\xc3\xa4"),
    ],
)
async def test_connect(protocol: Literal["5", "3.1.1"], expected: bytes) -> None:
    """CONNECT asks for a clean start and says client identifier, user name, password and keep alive."""
    received: list[bytes] = []

    async def script(peer: Peer) -> None:
        received.append((await peer.read())[1])
        await peer.send(CONNACK if protocol == "5" else b"\x20\x02\x00\x00")
        await peer.until_gone()

    async with scripted_broker([script]) as port:
        config = mqtt_config(port, client_id="könig", username="u", password="pä", protocol=protocol)
        async with MqttDelivery(config) as delivery:
            await wait_until(lambda: delivery.connected)
    assert received == [expected]


async def test_the_brokers_keep_alive_is_used_when_it_is_shorter() -> None:
    """A server keep alive of one second (§3.2.2.3.14) makes us ping although ours is thirty."""
    pings: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.accept(b"\x20\x06\x00\x00\x03\x13\x00\x01")
        while True:
            pings.append((await peer.read())[0])
            await peer.send(b"\xd0\x00")

    async with scripted_broker([script]) as port, MqttDelivery(mqtt_config(port)) as delivery:
        await wait_until(lambda: len(pings) >= 3)
        assert delivery.connected
    assert set(pings) == {0xC0}


async def test_a_connection_that_is_given_up_before_it_stands_is_closed() -> None:
    """A connection that is made after it was given up is cut at once, so that nothing stays open."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.until_gone()
        gone.set()

    async with scripted_broker([script]) as port:
        connection = Connection(mqtt_config(port))
        connection.drop("given up")
        await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", port)
        await asyncio.wait_for(gone.wait(), 10)
        assert connection.ended.result().trouble == "given up"
