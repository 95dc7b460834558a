"""The metrics of the publisher: changes on their way, and the messages that they become."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from companion.core.model import ChangeOp, Incident
from companion.metrics.buckets import ACK_SECONDS, LAG_SECONDS


class PublishingMetrics:
    """Those of changes. "dead" ones are kept in the inbox with their reason."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.taken = Counter("companion_changes_taken", "Changes posted to the inbox.", ["outcome"], registry=registry)
        for outcome in ("accepted", "duplicate", "rejected"):
            self.taken.labels(outcome)
        self.published = Counter(
            "companion_changes_published", "Changes whose every message was acknowledged.", ["op"], registry=registry
        )
        for op in ChangeOp:
            self.published.labels(op.value)
        self.dead = Counter("companion_changes_dead", "Changes given up, kept as dead letters.", registry=registry)
        self.lag = Histogram(
            "companion_change_lag_seconds",
            "Time from a change's `at` to the acknowledgement of its last message.",
            buckets=LAG_SECONDS,
            registry=registry,
        )
        self.backlog = Gauge("companion_inbox_backlog", "Changes behind the checkpoint.", registry=registry)
        self.checkpoint = Gauge(
            "companion_checkpoint_position", "Position up to which all is acknowledged.", registry=registry
        )
        incidents = Counter(
            "companion_source_incidents",
            "Histories lost, changes that could not be read (dead letters), changes found by resynchronisation.",
            ["incident"],
            registry=registry,
        )
        self.incidents = {one: incidents.labels(one.value) for one in Incident}


class DeliveryMetrics:
    """Those of messages to the broker, and of the connection to it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.acknowledged = Counter(
            "companion_messages_acknowledged", "Messages that the broker acknowledged.", registry=registry
        )
        self.refused = Counter(
            "companion_messages_refused", "Messages that the broker refused (reason code >= 0x80).", registry=registry
        )
        self.in_flight = Gauge("companion_messages_in_flight", "Messages sent and not acknowledged.", registry=registry)
        self.ack_seconds = Histogram(
            "companion_message_ack_seconds",
            "Time from PUBLISH to its acknowledgement.",
            buckets=ACK_SECONDS,
            registry=registry,
        )
        self.connected = Gauge("companion_broker_connected", "1 while the publisher is connected.", registry=registry)
        self.connects = Counter(
            "companion_broker_connects", "Connections that the publisher made to the broker.", registry=registry
        )
