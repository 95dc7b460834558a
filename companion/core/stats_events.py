"""What is counted of the broker's events: connects, disconnects by reason, refusals, subscriptions, messages. Pure.

The keys are `MQTT_COUNT__{VERB}_{CLIENTS|TOPICS|MESSAGES}`, and where there is a reason the same with it. All are counted for the
owner `broker`, and, for clients that were let in, for the principal. (What EMQX counts of itself, `BROKER_COUNT__…`, is another
thing: `maintenance.broker_source`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.stats import Fact, Subject

OWNER: Final = "broker"

_KEYS: Final[Mapping[EventKind, str]] = {
    EventKind.CONNECTED: "CONNECT_CLIENTS",
    EventKind.DISCONNECTED: "DISCONNECT_CLIENTS",
    EventKind.CONNACK: "REFUSE_CLIENTS",
    EventKind.AUTHORIZED: "REFUSE_TOPICS",
    EventKind.SUBSCRIBED: "SUBSCRIBE_TOPICS",
    EventKind.UNSUBSCRIBED: "UNSUBSCRIBE_TOPICS",
    EventKind.PUBLISHED: "PUBLISH_MESSAGES",
    EventKind.DELIVERED: "DELIVER_MESSAGES",
    EventKind.ACKNOWLEDGED: "ACKNOWLEDGE_MESSAGES",
    EventKind.DROPPED: "DROP_MESSAGES",
    EventKind.NOT_DELIVERED: "DROP_DELIVERIES",
}
_WITH_REASON: Final = frozenset({EventKind.DISCONNECTED, EventKind.CONNACK, EventKind.DROPPED, EventKind.NOT_DELIVERED})
REASONS: Final = frozenset(
    {
        *("normal", "kicked", "keepalive_timeout", "not_authorized", "tcp_closed", "ssl_closed", "internal_error"),
        *("takenover", "takeovered", "discarded", "auth_expired", "banned", "expired", "idle_timeout", "closed"),
        *("protocol_error", "malformed_packet", "frame_error", "packet_too_large", "server_busy", "shutdown"),
        *(
            "unsupported_protocol_version",
            "client_identifier_not_valid",
            "bad_username_or_password",
            "unspecified_error",
        ),
        *("malformed_username_or_password", "unauthorized_client", "server_unavailable", "bad_authentication_method"),
        *("quota_exceeded", "connection_rate_exceeded", "use_another_server", "server_moved", "topic_name_invalid"),
        *("retain_not_supported", "qos_not_supported", "implementation_specific_error", "receive_maximum_exceeded"),
        *("no_subscribers", "queue_full", "no_local", "qos0_msg", "topic_filter_invalid", "sock_closed", "einval"),
        *("econnreset", "etimedout", "epipe", "evicted", "unacceptable_protocol_version"),
    }
)
"""Those that have keys of their own; every other is counted as `OTHER`, so that no caller makes keys without an end."""


def fact_of(event: BrokerEvent) -> Fact | None:
    """Return what is counted of this event; None where nothing is."""
    name = _KEYS.get(event.kind)
    if name is None or (event.kind in (EventKind.CONNACK, EventKind.AUTHORIZED) and not event.refused):
        return None
    key = f"MQTT_COUNT__{name}"
    amounts = [(key, 1)]
    if event.kind in _WITH_REASON:
        reason = event.reason if event.reason in REASONS else "other"
        amounts.append((f"{key}_{reason}".upper(), 1))
    subjects = [Subject(OWNER)]
    # Who was refused may have made up the name.
    if event.kind is not EventKind.CONNACK and (principal := event.principal or event.username):
        subjects.append(Subject(principal))
    return Fact(event.at, tuple(dict.fromkeys(subjects)), tuple(amounts))
