"""The metrics of leases."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class LeaseMetrics:
    """Those of being the only one, by the name of the lease."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.held = Gauge("companion_lease_held", "1 while this process leads.", ["lease"], registry=registry)
        self.fenced = Counter(
            "companion_fenced", "Writes refused because another process has the lease since.", registry=registry
        )
