"""Metrics of several processes, added up."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from companion.core.model import Deny, Reason
from companion.metrics import Metrics
from companion.sharing import Sheet, Together, forget_gauges


def shown(metrics: Metrics, folder: Path) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return every series that a scrape shows, each once."""
    families = list(text_string_to_metric_families(generate_latest(Together(metrics.registry, folder)).decode()))
    assert len({family.name for family in families}) == len(families)
    samples = [sample for family in families for sample in family.samples]
    values = {(one.name, tuple(text for _, text in sorted(one.labels.items()))): one.value for one in samples}
    assert len(values) == len(samples)
    return values


def counted(seconds: float, entries: int) -> Metrics:
    """Return the metrics of a process that denied once, so quickly, and has so many cache entries."""
    metrics = Metrics()
    metrics.decided("authz", Deny(Reason.NO_RULE))
    metrics.seconds_of["authz"](seconds)
    metrics.audits.dropped.inc(2)
    metrics.publishing.lag.observe(seconds)
    metrics.caches.entries.labels("account").set(entries)
    return metrics


def test_counts_buckets_and_gauges_add_up(tmp_path: Path) -> None:
    """Counters, histograms and gauges of two processes and of the scraped one are summed; a copy made twice counts once."""
    for slot, seconds in ((1, 0.002), (2, 0.02)):
        metrics, sheet = counted(seconds, 10 * slot), Sheet(tmp_path, slot)
        for _ in range(2):
            sheet.copy(metrics.registry)
        sheet.close()
    values = shown(counted(0.2, 3), tmp_path)
    assert values["companion_hook_decisions_total", ("authz", "no_rule", "deny")] == 3
    assert values["companion_audits_dropped_total", ()] == 6
    assert values["companion_cache_entries", ("account",)] == 33
    assert values["companion_hook_seconds_count", ("authz",)] == 3
    assert round(values["companion_hook_seconds_sum", ("authz",)], 6) == 0.222
    assert values["companion_hook_seconds_bucket", ("authz", "0.0025")] == 1
    assert values["companion_hook_seconds_bucket", ("authz", "0.025")] == 2
    assert values["companion_hook_seconds_bucket", ("authz", "+Inf")] == 3
    assert values["companion_change_lag_seconds_count", ()] == 3
    assert [value for (name, _), value in values.items() if name == "companion_build_info"] == [1]


def test_the_next_process_goes_on_with_the_counts(tmp_path: Path) -> None:
    """Who takes the slot of one that died counts on from there, in the same files; the gauges of the dead one are gone at once."""
    first = Sheet(tmp_path, 1)
    first.copy(counted(0.002, 10).registry)
    first.close()
    files = sorted(tmp_path.iterdir())
    forget_gauges(tmp_path, 1)
    values = shown(Metrics(), tmp_path)
    assert ("companion_cache_entries", ("account",)) not in values
    assert values["companion_audits_dropped_total", ()] == 2
    second, metrics = Sheet(tmp_path, 1), counted(0.002, 4)
    second.copy(metrics.registry)
    metrics.audits.dropped.inc()
    second.copy(metrics.registry)
    second.close()
    values = shown(Metrics(), tmp_path)
    assert values["companion_audits_dropped_total", ()] == 5
    assert values["companion_hook_seconds_bucket", ("authz", "0.0025")] == 2
    assert values["companion_cache_entries", ("account",)] == 4
    assert sorted(tmp_path.iterdir()) == files
