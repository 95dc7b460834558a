"""Rounds to medians, and medians to a table for people and one line of JSON for programs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks._load import Result

_DIGITS: Final = 3


def arguments(description: str) -> argparse.Namespace:
    """Parse the options that every benchmark has: `rounds`, `seconds`, `connections`, `json`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, in turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--connections", type=int, default=32, help="connections, one request in flight on each")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    return parser.parse_args()


def median_of(results: Sequence[Result], field: str) -> float:
    """Return the median of one field over the rounds."""
    return float(median(getattr(result, field) for result in results))


def ratio(results: Sequence[Result], measure: Sequence[Result]) -> float:
    """Return the median over the rounds of how many requests one served for each request of the measure in the same round."""
    return median(
        one.requests_per_second / other.requests_per_second for one, other in zip(results, measure, strict=True)
    )


def print_table(title: str, rows: Mapping[str, Sequence[Result]], measure: Sequence[Result]) -> None:
    """Print the medians of each row, and its ratio to `measure`.

    `CPU` is the share of one core that the server used and `load` that of the load generator: where the former is near 100 % the
    server was what limited the rate.
    """
    table = Table(title=title)
    table.add_column("")
    for heading in ("requests/s", "ratio", "p50 ms", "p99 ms", "CPU", "CPU µs/request", "load"):
        table.add_column(heading, justify="right")
    for name, results in rows.items():
        table.add_row(
            name,
            f"{median_of(results, 'requests_per_second'):,.0f}",
            f"{ratio(results, measure):.2f}",
            f"{median_of(results, 'p50_ms'):.2f}",
            f"{median_of(results, 'p99_ms'):.2f}",
            f"{median_of(results, 'server_cpu'):.0%}",
            f"{median_of(results, 'server_microseconds'):.1f}",
            f"{median_of(results, 'load_cpu'):.0%}",
        )
    Console().print(table)


def print_json(figures: Mapping[str, float]) -> None:
    """Print the figures as one line."""
    print(msgspec.json.encode({name: round(figure, _DIGITS) for name, figure in figures.items()}).decode())
