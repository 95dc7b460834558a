"""Rounds to medians, and medians to a table for people and one line of JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

_DIGITS: Final = 3
_WIDTH: Final = 110


def ratio(rates: Iterable[float], measure: Iterable[float]) -> float:
    """Return the median over the rounds of the rate of one for each unit of the measure in the same round."""
    return median(one / other for one, other in zip(rates, measure, strict=True))


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print figures; the first column is text."""
    table = Table(title=title)
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=_WIDTH).print(table)


def print_json(figures: Mapping[str, float]) -> None:
    """Print the figures as one line."""
    print(msgspec.json.encode({name: round(figure, _DIGITS) for name, figure in figures.items()}).decode())
