"""Requests per second of `/mqtt/authz` with two worker processes against one: `python -m benchmarks.workers`.

Both services run all the time and are loaded in turn by wrk, a process of its own, over many connections: the kernel spreads
connections, not requests, and few of them spread badly. The script has wrk read no answers, so the decisions that the service
counted are compared with what was asked. On a machine with few cores the load takes its share of what the second worker could
have had; the table says how much.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import _traffic
from benchmarks._options import load_options
from benchmarks._processes import Server, cpu_seconds, metric, server
from benchmarks._report import print_json, print_table, ratio

_COUNTS: Final = (1, 2)
_WARM_UP: Final = 1.0
_SETTLE: Final = 1.5
_DECISIONS: Final = "companion_hook_decisions_total"
_FAILURES: Final = ("deadline", "internal", "malformed", "not_connected", "store_away")
_HEADINGS: Final = ("requests/s", "ratio", "p99 ms", "CPU of the workers", "load CPU", "idle")

_SCRIPT: Final = """
local requests, at = {{}}, 0
local file = assert(io.open({path!r}, "rb"))
for size in function() return file:read("*l") end do requests[#requests + 1] = file:read(tonumber(size)) end
file:close()
request = function() at = at % #requests + 1; return requests[at] end
"""


@dataclass(frozen=True, slots=True)
class _Round:
    """One measurement: rates per second, times in milliseconds, processor use as shares of one core."""

    requests: int
    rate: float
    p99_ms: float
    worker_cpu: tuple[float, ...]
    load_cpu: float
    idle: float


def main() -> None:
    """Measure and print."""
    options = load_options(__doc__, connections=128, seconds=4)
    if shutil.which("wrk") is None:
        sys.exit("benchmarks.workers: needs the program wrk on the PATH (Debian, Ubuntu: apt-get install wrk)")
    # As Ctrl-C does: leave by the way that stops the servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="companion-bench-") as folder, contextlib.ExitStack() as stack:
        script = _script(Path(folder))
        servers = {
            count: stack.enter_context(server("benchmarks._hooks_server", Path(folder, str(count)), str(count)))
            for count in _COUNTS
        }
        warm_up = {
            count: _measured(one, script, options.connections, _WARM_UP).requests for count, one in servers.items()
        }
        rounds = [
            {count: _measured(one, script, options.connections, options.seconds) for count, one in servers.items()}
            for _ in range(options.rounds)
        ]
        time.sleep(_SETTLE)
        for count, one in servers.items():
            asked = warm_up[count] + sum(results[count].requests for results in rounds)
            _check(one, asked, options.connections * (1 + options.rounds))
    results = {count: [one[count] for one in rounds] for count in _COUNTS}
    ratios = {count: ratio(_rates(results[count]), _rates(results[1])) for count in _COUNTS}
    print_table(
        f"{options.rounds} rounds of {options.seconds:g} s each, {options.connections} connections: medians",
        _HEADINGS,
        [_row(count, results[count], ratios[count]) for count in _COUNTS],
    )
    print(f"CPU: shares of one core; this machine has {os.cpu_count()}, load and workers together.")
    if options.json:
        print_json(
            {f"workers_{count}_requests_per_second": median(_rates(results[count])) for count in _COUNTS}
            | {f"workers_{count}_load_cpu": median(one.load_cpu for one in results[count]) for count in _COUNTS}
            | {"ratio_workers_2": ratios[2], "cores": os.cpu_count() or 0}
        )


def _script(folder: Path) -> Path:
    """Write the requests, and the script with which wrk sends them."""
    requests = folder / "requests"
    asked = [exchange.request for exchange in _traffic.accesses(_traffic.devices())]
    requests.write_bytes(b"".join(b"%d\n%s" % (len(request), request) for request in asked))
    script = folder / "load.lua"
    script.write_text(_SCRIPT.format(path=str(requests)))
    return script


def _measured(running: Server, script: Path, connections: int, seconds: float) -> _Round:
    pids = _answering(running.pid)
    before, load, idle = [cpu_seconds(pid) for pid in pids], _load_seconds(), _idle_seconds()
    started = time.perf_counter()
    text = subprocess.run(
        ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{round(seconds)}s", "-s", str(script), _address(running)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    took = time.perf_counter() - started
    if "Socket errors" in text or "Non-2xx" in text:
        raise RuntimeError(f"not every request was answered:\n{text}")
    used = tuple((cpu_seconds(pid) - then) / took for pid, then in zip(pids, before, strict=True))
    return _Round(
        requests=int(_found(r"(\d+) requests in", text)),
        rate=float(_found(r"Requests/sec:\s+([\d.]+)", text)),
        p99_ms=_milliseconds(_found(r"(?m)^ *99%\s+(\S+)", text)),
        worker_cpu=used,
        load_cpu=(_load_seconds() - load) / took,
        idle=(_idle_seconds() - idle) / took,
    )


def _check(running: Server, asked: int, cut_off: int) -> None:
    """Make sure that all was decided as it should be; wrk does not wait for the last answers. Raises `RuntimeError`."""
    decided = metric(running, _DECISIONS)
    if not asked <= decided <= asked + cut_off:
        raise RuntimeError(f"{decided:.0f} decisions, {asked} answers")
    failures = {
        reason: metric(running, f'{_DECISIONS}{{hook="authz",reason="{reason}",verdict="deny"}}')
        for reason in _FAILURES
    }
    if any(failures.values()):
        raise RuntimeError(f"failures: {failures}")


def _answering(pid: int) -> Sequence[int]:
    """Return the processes that answer: the workers, or the service itself where it has none."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children] or [pid]


def _address(running: Server) -> str:
    return f"http://127.0.0.1:{running.ports['http']}/mqtt/authz"


def _load_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _idle_seconds() -> float:
    """Return the processor time that nobody used, over all cores."""
    return int(Path("/proc/stat").read_text().split()[4]) / os.sysconf("SC_CLK_TCK")


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"wrk said something else:\n{text}")
    return match[1]


def _milliseconds(text: str) -> float:
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def _rates(results: Iterable[_Round]) -> list[float]:
    return [one.rate for one in results]


def _row(count: int, results: Sequence[_Round], compared: float) -> tuple[str, ...]:
    return (
        f"{count} worker{'s' * (count > 1)}",
        f"{median(_rates(results)):,.0f}",
        f"{compared:.2f}",
        f"{median(one.p99_ms for one in results):.1f}",
        " + ".join(f"{median(shares):.0%}" for shares in zip(*(one.worker_cpu for one in results), strict=True)),
        f"{median(one.load_cpu for one in results):.0%}",
        f"{median(one.idle for one in results):.0%}",
    )


if __name__ == "__main__":
    main()
