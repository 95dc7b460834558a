"""Counters for the hot path: plain numbers that one thread moves, turned into Prometheus' series when they are scraped.

prometheus_client's own counters take a lock and check themselves on every step, which suits several threads and costs a tenth of an
answer of the hooks. What is counted here is counted by the event loop alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily


class Tally:
    """One series of a counter; add to `count`."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class TallyCounter:
    """A counter with labels, registered on construction."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._series: dict[tuple[str, ...], Tally] = {}
        registry.register(self)

    def series(self, *values: str) -> Tally:
        """Return the series with these label values; it is shown from now on."""
        return self._series.setdefault(values, Tally())

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the state, for the registry."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, tally in self._series.items():
            family.add_metric(values, tally.count)
        yield family


class Spread:
    """One series of a histogram: how many observations fell into each bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value; a bucket holds what is at most its bound."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class SpreadHistogram:
    """A histogram with labels, registered on construction."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds = bounds
        self._series: dict[tuple[str, ...], Spread] = {}
        registry.register(self)

    def series(self, *values: str) -> Spread:
        """Return the series with these label values; it is shown from now on."""
        return self._series.setdefault(values, Spread(self._bounds))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the state, for the registry."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for values, spread in self._series.items():
            family.add_metric(values, list(zip(names, accumulate(spread.counts), strict=True)), spread.sum)
        yield family
