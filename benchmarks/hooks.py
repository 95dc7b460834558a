"""Requests per second and p99 of the hooks, against an aiohttp handler that allows everything: `python -m benchmarks.hooks`.

Four servers run, each a process: the constant handler, and the whole product three times, asked to authenticate clients whose
passwords it has checked before, or whose access tokens it has verified before, or to authorize publishes and subscriptions. They
are loaded in turn, never two at once, and compared round by round, so that a machine that grows slower while the benchmark runs
does not change the ratios. The constant handler is sent the requests for publishes and subscriptions, which are the shorter ones.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import _storm_load, _traffic
from benchmarks._load import Exchange, Load, Result, run
from benchmarks._options import load_options
from benchmarks._processes import Server, metric, server
from benchmarks._report import print_json, print_table, ratio
from benchmarks._storm_load import Storm

_WARM_UP: Final = 0.5
_FIRST_CHECKS: Final = 4
"""Passwords to be checked for the first time at once: they wait for a thread, and each for no longer than the deadline."""

_SERVERS: Final = {
    "constant": "benchmarks._constant_server",
    "auth_password": "benchmarks._hooks_server",
    "auth_token": "benchmarks._hooks_server",
    "authz": "benchmarks._hooks_server",
}
_TITLES: Final = {
    "constant": "constant handler",
    "auth_password": "/mqtt/auth, cached password",
    "auth_token": "/mqtt/auth, cached token",
    "authz": "/mqtt/authz",
}
_PRODUCT: Final = ("auth_password", "auth_token", "authz")
_HEADINGS: Final = ("requests/s", "ratio", "p50 ms", "p99 ms", "CPU", "µs/request", "load CPU")


@dataclass(frozen=True, slots=True)
class _Subject:
    """A server, and what it is asked."""

    server: Server
    exchanges: Sequence[Exchange]

    def measured(self, connections: int, seconds: float) -> Result:
        """Load it for a while."""
        port = self.server.ports["http"]
        return run(Load(port, self.server.pid, list(self.exchanges), connections, seconds, _WARM_UP))


def main() -> None:
    """Measure and print."""
    options = load_options(__doc__, connections=32, seconds=3.0)
    # As Ctrl-C does: leave by the way that stops the servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="companion-bench-") as folder, contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(server(module, Path(folder, name))) for name, module in _SERVERS.items()}
        sessions = _traffic.sessions()
        devices = _traffic.devices()
        logins, accesses = _traffic.logins(sessions), _traffic.accesses([*devices, *sessions])
        passwords = _traffic.password_logins(devices)
        # Whoever asks for a topic has logged in before.
        _Subject(servers["authz"], logins).measured(len(logins), _WARM_UP)
        warmed = servers["auth_password"]
        _storm_load.run(Storm(warmed.ports["http"], warmed.pid, passwords, _FIRST_CHECKS, _WARM_UP))
        subjects = {
            "constant": _Subject(servers["constant"], _traffic.always_allowed(accesses)),
            "auth_password": _Subject(servers["auth_password"], passwords),
            "auth_token": _Subject(servers["auth_token"], logins),
            "authz": _Subject(servers["authz"], accesses),
        }
        rounds = [
            {name: subject.measured(options.connections, options.seconds) for name, subject in subjects.items()}
            for _ in range(options.rounds)
        ]
        dropped = {name: metric(servers[name], "companion_audits_dropped_total") for name in _PRODUCT}
    results = {name: [one[name] for one in rounds] for name in subjects}
    ratios = {name: ratio(_rates(results[name]), _rates(results["constant"])) for name in results}
    print_table(
        f"{options.rounds} rounds of {options.seconds:g} s each, {options.connections} connections: medians",
        _HEADINGS,
        [_row(name, results[name], ratios[name]) for name in results],
    )
    print("CPU: share of one core; where the server's is below 100 %, other work on this machine held it up.")
    print(f"Audit records dropped: {sum(dropped.values()):g}")
    if options.json:
        print_json(
            {f"{name}_requests_per_second": median(_rates(results[name])) for name in results}
            | {f"{name}_p99_ms": median(one.p99_ms for one in results[name]) for name in results}
            | {
                f"{name}_server_microseconds": median(one.server_microseconds for one in results[name])
                for name in results
            }
            | {f"ratio_{name}": ratios[name] for name in _PRODUCT}
            | {f"{name}_audits_dropped": count for name, count in dropped.items()}
        )


def _rates(results: Iterable[Result]) -> list[float]:
    return [one.requests_per_second for one in results]


def _row(name: str, results: Sequence[Result], compared: float) -> tuple[str, ...]:
    return (
        _TITLES[name],
        f"{median(_rates(results)):,.0f}",
        f"{compared:.2f}",
        f"{median(one.p50_ms for one in results):.2f}",
        f"{median(one.p99_ms for one in results):.2f}",
        f"{median(one.server_cpu for one in results):.0%}",
        f"{median(one.server_microseconds for one in results):.1f}",
        f"{median(one.load_cpu for one in results):.0%}",
    )


if __name__ == "__main__":
    main()
