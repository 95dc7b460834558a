"""The metrics of what happened: the audit, and the broker's events."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class AuditMetrics:
    """Those of the audit."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.dropped = Counter(
            "companion_audits_dropped", "Audit records lost because the store was away too long.", registry=registry
        )
        self.spooled = Gauge(
            "companion_audits_spooled", "Audit records on the disk because the store is away.", registry=registry
        )
        self.problems = Gauge(
            "companion_audit_problems", "What the last run of the auditor here found to be wrong.", registry=registry
        )


class EventMetrics:
    """Those of the broker's events."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.outcomes = Counter(
            "companion_broker_events",
            "What the broker told of its clients: events, and requests that were malformed or could not be taken.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("new", "known", "ignored", "malformed", "not_taken"):
            self.outcomes.labels(outcome)
        self.shown = Counter(
            "companion_presence_shown",
            "Messages on the presence topics that the broker acknowledged.",
            registry=registry,
        )
