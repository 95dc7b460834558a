"""Counters and histograms of plain numbers, as Prometheus reads them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from companion.tallies import SpreadHistogram, TallyCounter


def shown(registry: CollectorRegistry) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(one.name, tuple(one.labels.values())): one.value for family in families for one in family.samples}


def test_a_counter_shows_a_series_from_its_first_mention() -> None:
    """A series is shown at 0 once it was asked for, and the same labels lead to the same series."""
    registry = CollectorRegistry()
    counter = TallyCounter("things", "Things.", ["kind"], registry)
    assert shown(registry) == {}
    counter.series("a").count += 2
    counter.series("a").count += 1
    counter.series("b")
    assert shown(registry) == {("things_total", ("a",)): 3, ("things_total", ("b",)): 0}


def test_a_bucket_holds_what_is_at_most_its_bound() -> None:
    """Values below, on and above the bounds fall where Prometheus expects them; buckets are cumulative."""
    registry = CollectorRegistry()
    spread = SpreadHistogram("seconds", "Seconds.", ["hook"], (1, 2.5), registry).series("x")
    for value in (0.5, 1, 1.5, 3):
        spread.observe(value)
    assert shown(registry) == {
        ("seconds_bucket", ("x", "1.0")): 2,
        ("seconds_bucket", ("x", "2.5")): 3,
        ("seconds_bucket", ("x", "+Inf")): 4,
        ("seconds_count", ("x",)): 4,
        ("seconds_sum", ("x",)): 6,
    }
