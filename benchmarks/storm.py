"""A fleet that reconnects at once, twice, with passwords hashed by bcrypt: `python -m benchmarks.storm`.

The first storm finds nothing remembered: every device costs a check, most are told that there are too many, and come back a
moment later; no answer may take longer than EMQX waits for it. The second finds every password remembered. It is compared with a
constant-allow handler behind the same load, in turn, a few times over.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import _traffic
from benchmarks._options import parser_of
from benchmarks._processes import Server, metric, server
from benchmarks._report import print_json, print_table, ratio
from benchmarks._storm_load import Outcome, Storm, run
from companion.settings import Settings

_EMQX_SECONDS: Final = 5.0
_PAUSE: Final = 1.0
_HEADINGS: Final = ("seconds", "answers/s", "ratio", "refused", "p50 ms", "p99 ms", "max ms", "CPU µs/answer")


def main() -> None:
    """Measure and print."""
    options = _options()
    # As Ctrl-C does: leave by the way that stops the servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    devices = _traffic.password_logins(_traffic.devices(options.devices))
    with tempfile.TemporaryDirectory(prefix="companion-bench-") as folder, contextlib.ExitStack() as stack:
        constant = stack.enter_context(server("benchmarks._constant_server", Path(folder, "constant")))
        hooks = stack.enter_context(
            server("benchmarks._hooks_server", Path(folder, "hooks"), "1", str(options.devices))
        )

        def storm(running: Server, times: int = options.times) -> Outcome:
            connections = min(options.connections, options.devices)
            return run(Storm(running.ports["http"], running.pid, devices, connections, _PAUSE, times))

        first = storm(hooks, 1)
        checked = metric(hooks, 'companion_credential_checks_total{outcome="right"}')
        storm(constant)
        rounds = [(storm(constant), storm(hooks)) for _ in range(options.rounds)]
        again = metric(hooks, 'companion_credential_checks_total{outcome="right"}') - checked
    constants, seconds = zip(*rounds, strict=True)
    compared = ratio((one.rate for one in seconds), (one.rate for one in constants))
    print_table(
        f"{options.devices} devices at once; {options.rounds} rounds of {options.times} storms in a row: medians",
        _HEADINGS,
        [
            _row("constant handler", constants, 1.0),
            _row("first storm, bcrypt", [first], None),
            _row("second storm", seconds, compared),
        ],
    )
    print(f"Checked in the first storm: {checked:g}; in all later ones: {again:g}.")
    deadline = Settings().hooks_deadline
    if first.max_ms > _EMQX_SECONDS * 1000:
        raise SystemExit(f"an answer took {first.max_ms:.0f} ms: longer than EMQX waits")
    if again:
        raise SystemExit(f"{again:g} passwords that were remembered have been checked again")
    if options.json:
        print_json(
            {
                "storm_devices": options.devices,
                "storm_first_seconds": first.seconds,
                "storm_first_refused": first.refusals,
                "storm_first_max_ms": first.max_ms,
                "storm_deadline_ms": deadline * 1000,
                "storm_second_per_second": median(one.rate for one in seconds),
                "storm_second_max_ms": max(one.max_ms for one in seconds),
                "storm_constant_per_second": median(one.rate for one in constants),
                "ratio_storm_second": compared,
            }
        )


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=7)
    parser.add_argument("--devices", type=int, default=2000, help="devices that connect at once")
    parser.add_argument("--connections", type=int, default=2000, help="connections of the broker, one request on each")
    parser.add_argument("--times", type=int, default=3, help="storms in a row in one measurement")
    return parser.parse_args()


def _row(title: str, outcomes: Sequence[Outcome], compared: float | None) -> tuple[str, ...]:
    return (
        title,
        f"{median(one.seconds for one in outcomes):.2f}",
        f"{median(one.rate for one in outcomes):,.0f}",
        "" if compared is None else f"{compared:.2f}",
        f"{median(one.refusals for one in outcomes):,.0f}",
        f"{median(one.p50_ms for one in outcomes):.1f}",
        f"{median(one.p99_ms for one in outcomes):.1f}",
        f"{max(one.max_ms for one in outcomes):.1f}",
        f"{median(one.server_cpu_seconds / one.answers for one in outcomes) * 1e6:,.0f}",
    )


if __name__ == "__main__":
    main()
