"""The metrics of the mirror."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from companion.core.model import Lookup
from companion.tallies import TallyCounter


class MirrorMetrics:
    """Those of the mirror. Its collections are those of the settings."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.taken = Counter(
            "companion_mirror_changes", "Changes written into the mirror.", ["collection"], registry=registry
        )
        self.rebuilds = Counter(
            "companion_mirror_rebuilds",
            "How often a mirrored collection was to be copied anew, and why.",
            ["collection", "why"],
            registry=registry,
        )
        self.lag = Gauge(
            "companion_mirror_lag_seconds",
            "How old the copies were when they were last said to be current.",
            ["collection"],
            registry=registry,
        )
        self.current = Gauge(
            "companion_mirror_current_timestamp_seconds",
            "When this process last said that the copies are current.",
            ["collection"],
            registry=registry,
        )
        lookups = TallyCounter(
            "companion_mirror_lookups",
            "Looks for accounts in the mirror; all but a hit ask MongoDB.",
            ["outcome"],
            registry,
        )
        self.lookups = {one: lookups.series(one.value) for one in Lookup}
        self.drift = Counter(
            "companion_mirror_drift",
            "Copies that differed from what they are copies of, found by a comparison.",
            ["collection", "kind"],
            registry=registry,
        )

    def looked(self, outcome: Lookup) -> None:
        """Count one look into the mirror."""
        self.lookups[outcome].count += 1
