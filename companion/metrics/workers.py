"""The metrics of the worker processes of the hooks."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class WorkerMetrics:
    """Those of several processes on one port; no series without them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.by_state = Gauge("companion_workers", "Worker processes of the hooks.", ["state"], registry=registry)
        self.restarts = Counter(
            "companion_worker_restarts",
            "Workers started in the place of one that ended.",
            ["worker"],
            registry=registry,
        )
