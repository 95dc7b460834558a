"""The options that benchmarks have in common."""

from __future__ import annotations

import argparse


def parser_of(about: str | None, *, rounds: int = 0) -> argparse.ArgumentParser:
    """Return a parser that knows `--json`, and `--rounds` where there are rounds: so many unless others are asked for."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds, help="how often each is measured, in turn")
    return parser


def load_options(about: str | None, *, connections: int, seconds: float) -> argparse.Namespace:
    """Return the options of a benchmark that puts a server under load: `rounds`, `seconds`, `connections` and `json`.

    `seconds` are whole ones where the default is.
    """
    parser = parser_of(about, rounds=5)
    parser.add_argument("--seconds", type=type(seconds), default=seconds, help="length of one measurement")
    parser.add_argument(
        "--connections", type=int, default=connections, help="connections, one request in flight on each"
    )
    return parser.parse_args()
