"""What EMQX tells of its clients: the JSON of its rule events (5.8 to 6.2) and of the 4.4 webhook, to events of ours. Pure.

Read from EMQX's source: `emqx_rule_events.erl` and `emqx_web_hook.erl`. A rule event is a flat object whose `event` says what it
is (`client.connected`); 5.10 and later name the topics of the same events in another way (`$events/client/connected`), and both are
understood, as is the `action` of the webhook (`client_connected`). Only what is read here needs to be selected by the rule's SQL.

An event has no id: what comes again is byte for byte the same, so a digest of its content is the id. One that bears no time (the
webhook's CONNACKs and subscriptions) cannot be told from its repetition and counts as new.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from companion.core import strict_json
from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.errors import Invalid

MOST: Final = 1000
"""Events of one request."""

_NAMES: Final[Mapping[str, EventKind]] = {
    **{kind.value.replace(".", "_"): kind for kind in EventKind},
    "client_check_acl_complete": EventKind.AUTHORIZED,
    "auth_check_authz_complete": EventKind.AUTHORIZED,
    "auth_check_authn_complete": EventKind.AUTHENTICATED,
    "message_delivery_dropped": EventKind.NOT_DELIVERED,
    "client_disconnect": EventKind.DISCONNECTED,
}
_PREFIX: Final = "$events/"
_NOTHING: Final = frozenset({"undefined", "null"})
"""How EMQX writes a user name or an address that there is none of."""

_TIMES: Final = ("timestamp", "ts", "disconnected_at", "connected_at", "publish_received_at")
_SECONDS_BELOW: Final = 100_000_000_000
_LAST: Final = 253_402_300_799_999
_SHORT: Final = 256
_LONG: Final = 65_535
_BYTE: Final = 255
_TWO_BYTES: Final = 65_535


def parse(body: bytes, now: int) -> tuple[Sequence[BrokerEvent], int]:
    """Return the events of a request, and how many it held that say nothing to us; `now` is in Unix milliseconds.

    Raises `Invalid` naming the field when one of them cannot be understood.
    """
    try:
        content = strict_json.decode(body)
    except strict_json.NotJson as problem:
        raise Invalid("body", "", f"one event as a JSON object, or a list of them ({problem})") from None
    items = content if isinstance(content, list) else [content]
    if len(items) > MOST:
        raise Invalid("body", f"{len(items)} events", f"at most {MOST} in one request")
    events: dict[str, BrokerEvent] = {}
    ignored = 0
    for number, item in enumerate(items):
        try:
            event = _event(item, now)
        except Invalid as problem:
            raise problem.within(f"events[{number}]") if isinstance(content, list) else problem from None
        if event is None:
            ignored += 1
        else:
            events[event.id] = event
    return list(events.values()), ignored


def _event(item: object, now: int) -> BrokerEvent | None:
    if not isinstance(item, dict):
        raise Invalid("event", type(item).__name__, "a JSON object")
    field = "event" if "event" in item else "action"
    name = _text(item, field, _SHORT).lower().removeprefix(_PREFIX).replace(".", "_").replace("/", "_")
    if not name:
        raise Invalid(
            "event", "", "the name of an event, such as client.connected (or action, as the 4.4 webhook has it)"
        )
    kind = _NAMES.get(name)
    if kind is None:
        return None
    times = [time for time in (_time(item, one) for one in _TIMES) if time is not None]
    client_id = _text(item, "clientid", _LONG) or _text(item, "from_client_id", _LONG)
    if not client_id:
        raise Invalid("clientid", "", "the client id that the event is about")
    return BrokerEvent(
        id=_id(item) if times else secrets.token_hex(16),
        kind=kind,
        at=times[0] if times else now,
        client_id=client_id,
        username=_named(item, "username") or _named(item, "from_username"),
        node=_text(item, "node", _SHORT),
        peer=_named(item, "peername") or _named(item, "peerhost") or _named(item, "ipaddress"),
        reason=_reason(item, kind),
        topic=_text(item, "topic", _LONG),
        action=_text(item, "action", _SHORT) if field == "event" else "",
        source=_text(item, "authz_source", _SHORT),
        connected_at=_time(item, "connected_at"),
        disconnected_at=_time(item, "disconnected_at"),
        protocol=_number(item, "proto_ver", _BYTE),
        keepalive=_number(item, "keepalive", _TWO_BYTES),
        clean_start=_flag(item, "clean_start"),
    )


def _id(item: Mapping[str, Any]) -> str:
    text = json.dumps(item, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _reason(item: Mapping[str, Any], kind: EventKind) -> str:
    fields = {
        EventKind.CONNACK: ("reason_code", "conn_ack"),
        EventKind.AUTHENTICATED: ("reason_code",),
        EventKind.AUTHORIZED: ("result",),
    }.get(kind, ("reason",))
    return next((text for text in (_text(item, field, _LONG) for field in fields) if text), "")[:_SHORT]


def _text(item: Mapping[str, Any], name: str, longest: int) -> str:
    value = item.get(name)
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        # The webhook writes reason codes of MQTT as they are.
        value = str(value)
    if not isinstance(value, str) or len(value) > longest or "\0" in value:
        raise Invalid(name, value, f"text of at most {longest} characters, without NUL")
    return value


def _named(item: Mapping[str, Any], name: str) -> str:
    text = _text(item, name, _LONG)
    return "" if text in _NOTHING else text


def _time(item: Mapping[str, Any], name: str) -> int | None:
    value = item.get(name)
    if value is None or (isinstance(value, str) and value in _NOTHING):
        return None
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value)
    if type(value) is not int or not 0 <= value <= _LAST:
        raise Invalid(name, value, "a time in Unix milliseconds")
    return value if value >= _SECONDS_BELOW else value * 1000


def _number(item: Mapping[str, Any], name: str, largest: int) -> int | None:
    value = item.get(name)
    return value if type(value) is int and 0 <= value <= largest else None


def _flag(item: Mapping[str, Any], name: str) -> bool | None:
    value = item.get(name)
    return value if isinstance(value, bool) else None
