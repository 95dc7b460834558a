"""The parts of the MQTT delivery that need no broker: back-off, configuration, encoding, reason codes."""

from __future__ import annotations

import dataclasses
from typing import Any

import gmqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.errors import Invalid
from publishers.delivery import Unsendable
from publishers.mqtt_backoff import Backoff
from publishers.mqtt_config import MqttConfig
from publishers.mqtt_encoding import MAX_PAYLOAD_BYTES, encode
from publishers.mqtt_reasons import reason_name, shown_reason
from tests.support.publishing import message, mqtt_config

V5, V311 = gmqtt.constants.MQTTv50, gmqtt.constants.MQTTv311


def test_the_delay_is_random_below_a_ceiling_that_doubles() -> None:
    """Delays stay below 0.1, 0.2, 0.4, … seconds up to the maximum, and spread over the whole range."""
    sequences = []
    for _ in range(200):
        backoff = Backoff(0.1, 1.0)
        sequences.append([backoff.next() for _ in range(6)])
    ceilings = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    for delays, ceiling in zip(zip(*sequences, strict=True), ceilings, strict=True):
        assert 0 <= min(delays) < 0.25 * ceiling
        assert 0.75 * ceiling < max(delays) <= ceiling


def test_a_connection_that_outlives_the_ceiling_starts_the_back_off_anew() -> None:
    """A connection that ends at once earns nothing; one that stood for longer than the ceiling starts over."""
    backoff = Backoff(0.1, 1.0)
    for _ in range(10):
        backoff.next()
    backoff.outlived(0.9)
    assert max(backoff.next() for _ in range(200)) > 0.5
    backoff.outlived(1.1)
    assert backoff.next() <= 0.1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"window": 0}, "window"),
        ({"window": 65_536}, "window"),
        ({"keepalive": 0}, "keepalive"),
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"ack_timeout": -1}, "ack_timeout"),
        ({"backoff_initial": 0}, "backoff_initial"),
        ({"backoff_initial": 2, "backoff_max": 1}, "backoff_max"),
        ({"password": "swordfish"}, "username"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict[str, Any], field: str) -> None:
    """`Invalid` names the field, and does not show a password."""
    with pytest.raises(Invalid) as caught:
        mqtt_config(1883, **changes)
    assert caught.value.field == field
    assert "swordfish" not in str(caught.value)


def test_the_password_is_not_shown() -> None:
    """The representation of a configuration leaves the password out."""
    config = mqtt_config(1883, username="u", password="swordfish")
    assert "swordfish" not in repr(config)


def test_an_endpoint_is_written_as_in_an_address() -> None:
    """An IPv6 address stands in brackets."""
    config = MqttConfig(host="broker", client_id="c")
    assert config.endpoint == "broker:1883"
    assert dataclasses.replace(config, host="::1").endpoint == "[::1]:1883"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"topic": ""}, 0x90),
        ({"topic": "a/+"}, 0x90),
        ({"topic": "a/#"}, 0x90),
        ({"topic": "a\0b"}, 0x90),
        ({"topic": "a\ud800b"}, 0x90),
        ({"topic": "a" * 65_536}, 0x90),
        ({"payload": bytes(MAX_PAYLOAD_BYTES + 1)}, 0x95),
        ({"content_type": "a\0b"}, 0x81),
        ({"content_type": "a\ud800b"}, 0x81),
        ({"content_type": "a" * 65_536}, 0x81),
        ({"user_properties": (("a\0b", "v"),)}, 0x81),
        ({"user_properties": (("n", "a\0b"),)}, 0x81),
        ({"user_properties": (("n", "a\ud800b"),)}, 0x81),
        ({"user_properties": (("n", "a" * 65_536),)}, 0x81),
        ({"expiry": -1}, 0x81),
        ({"expiry": 2**32}, 0x81),
    ],
)
def test_what_no_broker_would_take_is_unsendable(changes: dict[str, Any], code: int) -> None:
    """What breaks the format is refused with the reason code that a broker would give."""
    with pytest.raises(Unsendable) as caught:
        encode(dataclasses.replace(message("t"), **changes), V5)
    assert caught.value.reason_code == code


def test_properties_do_not_matter_to_mqtt_3_1_1() -> None:
    """MQTT 3.1.1 has no properties, so even impossible ones are left out."""
    packet = encode(message("t", b"p", content_type="\0", expiry=-1, user_properties=(("\0", "\0"),)), V311)
    assert packet.data == b"\x32\x06\x00\x01t\x00\x00p"


@given(
    topic=st.text(st.characters(codec="utf-8", exclude_characters="+#\0"), min_size=1, max_size=200),
    payload=st.binary(max_size=300),
    qos=st.sampled_from((1, 2)),
    version=st.sampled_from((V5, V311)),
)
def test_the_identifier_stands_behind_the_topic(topic: str, payload: bytes, qos: Any, version: int) -> None:
    """For packets of any length, the two bytes that are set on sending are the packet identifier, and 0 until then."""
    packet = encode(message(topic, payload, qos=qos), version)
    name = topic.encode()
    before = packet.data[: packet.identifier_at]
    assert before.endswith(len(name).to_bytes(2, "big") + name)
    assert packet.data[packet.identifier_at :].startswith(b"\0\0")
    assert packet.data.endswith(payload)
    assert packet.data[0] == 0x30 | qos << 1
    length = len(packet.data) - (packet.identifier_at - 2 - len(name))
    shown = packet.data[1 : packet.identifier_at - 2 - len(name)]
    assert length == sum((byte & 0x7F) << 7 * place for place, byte in enumerate(shown))


def test_the_smallest_packets_in_full() -> None:
    """Two PUBLISH packets, byte for byte, as MQTT 5 §3.3 has them."""
    plain = message("a/b", b"hi", retain=True, expiry=None, content_type="", user_properties=())
    assert encode(plain, V5).data == b"\x33\x0a\x00\x03a/b\x00\x00\x00hi"
    full = message("a", b"", qos=2, expiry=60, content_type="x", user_properties=(("n", "v"),))
    properties = b"\x02\x00\x00\x00\x3c" + b"\x03\x00\x01x" + b"\x26\x00\x01n\x00\x01v"
    assert encode(full, V5).data == b"\x34\x16\x00\x01a\x00\x00" + bytes([len(properties)]) + properties


def test_reasons_have_the_names_of_the_standard() -> None:
    """A known code is named as in MQTT 5 §2.4, an unknown one is shown as such."""
    assert reason_name(0x97) == "quota exceeded"
    assert shown_reason(0x87) == "0x87 not authorized"
    assert shown_reason(0xFE) == "0xFE unknown reason"
