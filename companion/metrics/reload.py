"""The metrics of what is read again while the service runs: the configuration and certificates."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class ReloadMetrics:
    """Those of the configuration that is read again, at SIGHUP and at POST /reload."""

    def __init__(self, registry: CollectorRegistry) -> None:
        reloads = Counter(
            "companion_reloads", "Configuration read again, and what came of it.", ["outcome"], registry=registry
        )
        self.done, self.refused = reloads.labels("done"), reloads.labels("refused")
        self.stale = Gauge(
            "companion_reload_refused",
            "1 while what was read last is refused and the old configuration works on.",
            registry=registry,
        )
        self.at = Gauge(
            "companion_reload_last_success_timestamp_seconds",
            "When the configuration was last read again; 0: not since the start.",
            registry=registry,
        )


class TlsMetrics:
    """Those of the certificates of our ports, `hooks` and `ops`; no series without TLS."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.not_after = Gauge(
            "companion_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in force ends.",
            ["port"],
            registry=registry,
        )
        self.refused = Gauge(
            "companion_tls_certificate_refused",
            "1 while the files hold a certificate that cannot be used and the old one works on.",
            ["port"],
            registry=registry,
        )
        self.changes = Counter(
            "companion_tls_certificate_changes",
            "Certificates that were found changed in their files, and what came of it.",
            ["port", "outcome"],
            registry=registry,
        )
