"""Requests per second and p99 of the hooks, against an aiohttp handler that allows everything: `python -m benchmarks.hooks`.

Three servers run, each a process: the constant handler, and the whole product twice, once asked to authenticate clients whose
access tokens it has verified before, once to authorize publishes and subscriptions. They are loaded in turn, never two at once,
and compared round by round, so that a machine that grows slower while the benchmark runs does not change the ratios.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from benchmarks import _traffic
from benchmarks._load import Exchange, Load, Result, run
from benchmarks._processes import Server, server
from benchmarks._report import arguments, median_of, print_json, print_table, ratio

_WARM_UP: Final = 0.3
_DROPPED: Final = "companion_audits_dropped_total"


@dataclass(frozen=True, slots=True)
class _Subject:
    """A server, and what it is asked."""

    title: str
    server: Server
    exchanges: Sequence[Exchange]

    def measured(self, connections: int, seconds: float) -> Result:
        """Load it for a while."""
        load = Load(self.server.ports["http"], self.server.pid, list(self.exchanges), connections, seconds, _WARM_UP)
        return run(load)


def main() -> None:
    """Measure and print."""
    options = arguments("Requests per second of the hooks, against a constant aiohttp handler.")
    with tempfile.TemporaryDirectory(prefix="companion-bench-") as parent, contextlib.ExitStack() as stack:
        folder = Path(parent)
        servers = {
            name: stack.enter_context(server(module, folder / name))
            for name, module in (
                ("constant", "benchmarks._constant_server"),
                ("auth_token", "benchmarks._hooks_server"),
                ("authz", "benchmarks._hooks_server"),
            )
        }
        sessions = _traffic.sessions()
        logins, accesses = _traffic.logins(sessions), _traffic.accesses([*_traffic.devices(), *sessions])
        # Whoever asks for a topic has logged in before.
        _Subject("logins", servers["authz"], logins).measured(len(logins), _WARM_UP)
        subjects = {
            "constant": _Subject("constant handler", servers["constant"], _traffic.always_allowed(accesses)),
            "auth_token": _Subject("/mqtt/auth, cached token", servers["auth_token"], logins),
            "authz": _Subject("/mqtt/authz", servers["authz"], accesses),
        }
        results: dict[str, list[Result]] = {name: [] for name in subjects}
        for _ in range(options.rounds):
            for name, subject in subjects.items():
                results[name].append(subject.measured(options.connections, options.seconds))
        dropped = {name: _dropped(servers[name]) for name in ("auth_token", "authz")}
    print_table(
        f"hooks, median of {options.rounds} rounds of {options.seconds:g} s, {options.connections} connections",
        {subject.title: results[name] for name, subject in subjects.items()},
        measure=results["constant"],
    )
    print(f"audit records dropped: {dropped['auth_token']} of the logins, {dropped['authz']} of the rest")
    if options.json:
        print_json(
            {f"{name}_requests_per_second": median_of(results[name], "requests_per_second") for name in subjects}
            | {f"{name}_p99_ms": median_of(results[name], "p99_ms") for name in subjects}
            | {f"{name}_server_microseconds": median_of(results[name], "server_microseconds") for name in subjects}
            | {f"ratio_{name}": ratio(results[name], results["constant"]) for name in ("auth_token", "authz")}
            | {f"{name}_audits_dropped": count for name, count in dropped.items()}
        )


def _dropped(running: Server) -> int:
    with urlopen(f"http://127.0.0.1:{running.ports['ops']}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith(f"{_DROPPED} "))))


if __name__ == "__main__":
    main()
