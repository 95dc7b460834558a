"""Events as EMQX writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_hooks.event_wire import MOST, parse
from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.errors import Invalid

NOW = 1_767_225_600_000

# As `emqx_rule_events.erl` of 5.8 builds it and `emqx_bridge_http` sends it without a template.
CONNECTED = {
    "event": "client.connected",
    "clientid": "dev-1",
    "username": "alice",
    "mountpoint": "undefined",
    "peername": "192.168.0.10:32781",
    "sockname": "0.0.0.0:1883",
    "proto_name": "MQTT",
    "proto_ver": 5,
    "keepalive": 60,
    "clean_start": True,
    "receive_maximum": 32,
    "expiry_interval": 0,
    "is_bridge": False,
    "conn_props": {"User-Property": {}},
    "connected_at": NOW - 10,
    "client_attrs": {},
    "timestamp": NOW,
    "node": "emqx@127.0.0.1",
    "metadata": {"rule_id": "companion"},
}
DISCONNECTED = {
    "event": "client.disconnected",
    "reason": "keepalive_timeout",
    "clientid": "dev-1",
    "username": "alice",
    "peername": "192.168.0.10:32781",
    "disconn_props": {"User-Property": {}},
    "connected_at": NOW - 10,
    "disconnected_at": NOW - 1,
    "timestamp": NOW,
    "node": "emqx@127.0.0.1",
}
CONNACK = {
    "event": "client.connack",
    "reason_code": "not_authorized",
    "clientid": "dev-1",
    "username": "undefined",
    "peername": "[2001:db8::1]:32781",
    "timestamp": NOW,
}
AUTHZ = {
    "event": "client.check_authz_complete",
    "clientid": "dev-1",
    "username": "alice",
    "peerhost": "192.168.0.10",
    "topic": "t/1",
    "action": "publish",
    "authz_source": "file",
    "result": "deny",
    "timestamp": NOW,
}


def one(item: dict[str, Any]) -> BrokerEvent:
    (event,), ignored = parse(json.dumps(item).encode(), NOW)
    assert ignored == 0
    return event


def test_connected() -> None:
    """All that presence rests on is read."""
    event = one(CONNECTED)
    assert (event.kind, event.at, event.client_id, event.username) == (EventKind.CONNECTED, NOW, "dev-1", "alice")
    assert (event.connected_at, event.disconnected_at) == (NOW - 10, None)
    assert (event.peer, event.peer_host, event.node) == ("192.168.0.10:32781", "192.168.0.10", "emqx@127.0.0.1")
    assert (event.protocol, event.keepalive, event.clean_start) == (5, 60, True)
    assert not event.refused


def test_disconnected() -> None:
    """An end bears its reason, and when the connection had begun."""
    event = one(DISCONNECTED)
    assert (event.kind, event.reason) == (EventKind.DISCONNECTED, "keepalive_timeout")
    assert (event.connected_at, event.disconnected_at) == (NOW - 10, NOW - 1)


def test_refused() -> None:
    """A CONNACK with another code than success, and a denied action, are refusals; what succeeded is none."""
    event = one(CONNACK)
    assert (event.refused, event.reason, event.username) == (True, "not_authorized", "")
    assert event.peer_host == "2001:db8::1"
    assert not one(CONNACK | {"reason_code": "success"}).refused
    event = one(AUTHZ)
    assert (event.refused, event.reason, event.source, event.action, event.topic) == (
        True,
        "deny",
        "file",
        "publish",
        "t/1",
    )
    assert not one(AUTHZ | {"result": "allow"}).refused


@pytest.mark.parametrize(
    "name",
    [
        "client.connected",
        "client/connected",
        "client_connected",
        "$events/client_connected",
        "$events/client/connected",
    ],
)
def test_both_styles_of_naming(name: str) -> None:
    """5.10 and later name the events in a second way."""
    assert one(CONNECTED | {"event": name}).kind is EventKind.CONNECTED


def test_every_kind_is_understood() -> None:
    """Each kind under EMQX's own name and under that of the other style."""
    for kind in EventKind:
        for name in (kind.value, f"$events/{kind.value.replace('.', '/')}"):
            assert one(CONNECTED | {"event": name}).kind is kind


def test_the_webhook_of_4_4() -> None:
    """The webhook says `action`, `ipaddress` and `conn_ack`, and null for no name."""
    body = {
        "action": "client_connected",
        "clientid": "dev-1",
        "username": None,
        "ipaddress": "10.0.0.7",
        "keepalive": 60,
        "proto_ver": 4,
        "connected_at": NOW - 5,
    }
    event = one(body)
    assert (event.kind, event.username, event.peer_host, event.connected_at) == (
        EventKind.CONNECTED,
        "",
        "10.0.0.7",
        NOW - 5,
    )
    event = one({"action": "client_disconnected", "clientid": "dev-1", "username": "alice", "reason": "normal"})
    assert (event.kind, event.connected_at, event.at) == (EventKind.DISCONNECTED, None, NOW)
    event = one({"action": "client_connack", "clientid": "dev-1", "username": "a", "conn_ack": "banned"})
    assert (event.refused, event.reason, event.action) == (True, "banned", "")
    event = one({"action": "message_publish", "from_client_id": "dev-1", "from_username": "a", "topic": "t", "ts": NOW})
    assert (event.kind, event.client_id, event.username, event.at) == (EventKind.PUBLISHED, "dev-1", "a", NOW)


def test_ids() -> None:
    """The same event has the same id, another one another; without a time none can be told from its repetition."""
    assert one(CONNECTED).id == one(dict(reversed(CONNECTED.items()))).id
    assert one(CONNECTED).id != one(CONNECTED | {"timestamp": NOW + 1}).id
    timeless = {"action": "session_subscribed", "clientid": "dev-1", "topic": "t"}
    assert one(timeless).id != one(timeless).id


def test_a_list() -> None:
    """Several at once; what says nothing to us is counted, what is there twice is one."""
    body = [CONNECTED, CONNECTED, DISCONNECTED, {"event": "alarm.activated", "name": "x"}]
    events, ignored = parse(json.dumps(body).encode(), NOW)
    assert ([event.kind.name for event in events], ignored) == (["CONNECTED", "DISCONNECTED"], 1)
    assert parse(b"[]", NOW) == ([], 0)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b'{"event":"a","event":"b"}', "body"),
        (b"7", "event"),
        (b"[[]]", "events[0].event"),
        (b"{}", "event"),
        (b'{"event":["client.connected"]}', "event"),
        (b'{"event":"client.connected"}', "clientid"),
        (b'[{"event":"client.connected","clientid":"a"},{"event":"client.connected"}]', "events[1].clientid"),
        (b'{"event":"client.connected","clientid":"a\\u0000"}', "clientid"),
        (b'{"event":"client.connected","clientid":"a","timestamp":-1}', "timestamp"),
        (b'{"event":"client.connected","clientid":"a","timestamp":[]}', "timestamp"),
        (b'{"event":"client.connected","clientid":"a","connected_at":99999999999999999}', "connected_at"),
        (b'{"event":"client.connected","clientid":"a","connected_at":true}', "connected_at"),
        (b'{"event":"client.connected","clientid":"a","username":{}}', "username"),
        (json.dumps([{}] * (MOST + 1)).encode(), "body"),
    ],
)
def test_what_cannot_be_understood(body: bytes, field: str) -> None:
    """The complaint names the field."""
    with pytest.raises(Invalid) as caught:
        parse(body, NOW)
    assert caught.value.field == field


WORDS = st.sampled_from(
    [*CONNECTED, *CONNACK, *AUTHZ, "action", "ts", "x", "$events/client_connected", "client_connected"]
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text() | WORDS
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6))


@given(ANYTHING)
def test_whatever_is_sent(content: object) -> None:
    """Anything is understood, let pass, or refused with a word about the field; nothing else comes of it."""
    try:
        events, ignored = parse(json.dumps(content).encode("utf-8", "surrogatepass"), NOW)
    except Invalid:
        return
    assert len(events) + ignored <= max(1, len(content) if isinstance(content, list) else 1)
    assert all(event.client_id and event.peer_host is not None for event in events)
