"""The metrics of revocations, and of EMQX's REST API, by which clients are kicked."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from companion.core.revocations import Cause
from companion.metrics.buckets import LAG_SECONDS


class RevocationMetrics:
    """Those of revocations."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.standing = Gauge(
            "companion_revocations_standing", "Revocations that the hooks know and refuse by.", registry=registry
        )
        self.waiting = Gauge(
            "companion_revocations_waiting",
            "Revocations about which something is left to do, in all processes together.",
            registry=registry,
        )
        self.oldest = Gauge(
            "companion_revocations_oldest_seconds", "For how long the oldest of them waits.", registry=registry
        )
        self.to_kick = Histogram(
            "companion_revocation_to_kick_seconds",
            "Time from a revocation to when everybody whom it concerns was kicked.",
            buckets=LAG_SECONDS,
            registry=registry,
        )
        self.ended = Counter(
            "companion_revocations_done",
            "Revocations that were done: why they were asked for, or that they were lifted.",
            ["cause"],
            registry=registry,
        )
        self.failures = Counter(
            "companion_revocation_failures",
            "Attempts at a step of a revocation that failed and are made again.",
            ["step"],
            registry=registry,
        )
        for cause in Cause:
            self.ended.labels(cause.value)
        self.ended.labels("lifted")


class EmqxMetrics:
    """Those of EMQX's REST API. Its calls are `look` (a snapshot), `clients`, `kick`, `ban`, `unban` and `caches`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "companion_emqx_requests",
            "Requests to EMQX's REST API; failed: no answer, not now, or not with our key.",
            ["call", "outcome"],
            registry=registry,
        )
