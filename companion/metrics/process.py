"""All the metrics of one process, in a registry of their own."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from companion.metrics.acl import AclMetrics
from companion.metrics.caches import CacheMetrics
from companion.metrics.events import AuditMetrics, EventMetrics
from companion.metrics.hooks import HookMetrics
from companion.metrics.jobs import JobMetrics
from companion.metrics.leases import LeaseMetrics
from companion.metrics.logins import CredentialMetrics, LoginMetrics
from companion.metrics.mirror import MirrorMetrics
from companion.metrics.publishing import DeliveryMetrics, PublishingMetrics
from companion.metrics.reload import ReloadMetrics, TlsMetrics
from companion.metrics.revocations import EmqxMetrics, RevocationMetrics
from companion.metrics.stats import StatsMetrics
from companion.metrics.workers import WorkerMetrics
from companion.sharing import Together


class Metrics:
    """The metrics of one process, in groups; every series whose labels are known shows from the start."""

    def __init__(self) -> None:
        # One more series for each counter would tell only when this process began, which `process_start_time_seconds` does.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        Gauge("companion_build_info", "The version that runs.", ["version"], registry=registry).labels(
            version("mqtt-companion")
        ).set(1)
        self.shared: Path | None = None
        """Where the workers share their metrics, while there are any."""

        # Those of the hooks are on the hot path and have no step between.
        hooks = HookMetrics(registry)
        self.decided, self.seconds_of = hooks.decided, hooks.seconds_of
        self.unauthorized, self.shadow = hooks.unauthorized, hooks.shadow
        self.caches, self.acl = CacheMetrics(registry), AclMetrics(registry)
        self.logins, self.credentials = LoginMetrics(registry), CredentialMetrics(registry)

        self.audits, self.events = AuditMetrics(registry), EventMetrics(registry)
        self.publishing, self.delivery = PublishingMetrics(registry), DeliveryMetrics(registry)
        self.jobs, self.stats, self.mirror = JobMetrics(registry), StatsMetrics(registry), MirrorMetrics(registry)
        self.revocations, self.emqx = RevocationMetrics(registry), EmqxMetrics(registry)
        self.leases, self.workers = LeaseMetrics(registry), WorkerMetrics(registry)
        self.reload, self.tls = ReloadMetrics(registry), TlsMetrics(registry)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format, the workers' counts added to our own."""
        return generate_latest(self.registry if self.shared is None else Together(self.registry, self.shared))
