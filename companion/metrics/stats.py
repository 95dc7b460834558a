"""The metrics of statistics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class StatsMetrics:
    """Those of the observer.

    Its readers are `inbox`, `facts` (what was taken into the inbox in Redis), `stream`, `audits`, `events` (of the
    broker) and `broker` (its own numbers).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.changes = Counter(
            "companion_stats_changes", "Changes counted into statistics.", ["reader"], registry=registry
        )
        self.lost = Counter(
            "companion_stats_lost",
            "Changes known not to be counted: too many waited, or they could not be read; a lost history counts as one.",
            ["reader"],
            registry=registry,
        )
        self.snapshots = Counter(
            "companion_broker_snapshots", "Snapshots of the broker's own numbers.", ["outcome"], registry=registry
        )
        self.lag = Gauge(
            "companion_stats_lag_seconds",
            "Time from the last counted change's `at` to its counting.",
            registry=registry,
        )
        self.flushed = Gauge(
            "companion_stats_flushed_timestamp_seconds",
            "When this process last brought counters to where they are read; 0: never.",
            registry=registry,
        )
