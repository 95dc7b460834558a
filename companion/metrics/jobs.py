"""The metrics of maintenance jobs."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from companion.metrics.buckets import JOB_SECONDS


class JobMetrics:
    """Those of jobs. Their names are those of the catalogue; `job` is a label of Prometheus' own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.runs = Counter("companion_job_runs", "Runs of jobs that ended.", ["job_name", "state"], registry=registry)
        self.seconds = Histogram(
            "companion_job_seconds",
            "Time from the first beginning of a run to its end.",
            ["job_name"],
            buckets=JOB_SECONDS,
            registry=registry,
        )
        self.late = Histogram(
            "companion_job_late_seconds",
            "Time from when a run was due to its beginning.",
            ["job_name"],
            buckets=JOB_SECONDS,
            registry=registry,
        )
        self.rows = Counter(
            "companion_job_rows", "What runs have done, as they count it.", ["job_name"], registry=registry
        )
        self.running = Gauge("companion_job_running", "1 while this process runs it.", ["job_name"], registry=registry)
        self.skipped = Counter(
            "companion_job_ticks_skipped",
            "Ticks without a run: one was waiting already, or nobody could begin for too long.",
            ["job_name", "why"],
            registry=registry,
        )
        self.success = Gauge(
            "companion_job_last_success_timestamp_seconds",
            "When a run of the job was last done, here or, before the start, anywhere; 0: never.",
            ["job_name"],
            registry=registry,
        )
