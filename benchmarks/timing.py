"""Does an answer tell whether a name exists? `python -m benchmarks.timing`.

Logins of users that do not exist and with wrong passwords of users that do, in turn, one at a time, over HTTP, on the whole
product. The medians of their times have to lie close together, and but for the date every byte of every answer has to be the same.
Each attempt is made again at once: the second is answered from what is remembered of the first, which must tell no more.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final, Self

from benchmarks import _traffic
from benchmarks._options import parser_of
from benchmarks._processes import server
from benchmarks._report import print_json, print_table
from broker_hooks.wire import DENY

_HEADINGS: Final = ("logins", "median ms", "p90 ms", "repeated: median ms")
_SECONDS: Final = 30.0


class Asker:
    """One connection, one request at a time. Keeps the times in seconds, and the answers without their date."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers: set[bytes] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def login(self, username: str, password: str) -> float:
        """Return how long a refusal took. Raises `RuntimeError` when the answer is no explicit one."""
        client = _traffic.Client(username, username, "")
        (exchange,) = _traffic.password_logins([client], password, DENY)
        started = time.perf_counter()
        self._socket.sendall(exchange.request)
        received = b""
        while not received.endswith(DENY):
            more = self._socket.recv(4096)
            if not more:
                raise RuntimeError(f"no explicit answer: {received!r}")
            received += more
        seconds = time.perf_counter() - started
        self.answers.add(b"\r\n".join(line for line in received.split(b"\r\n") if not line.startswith(b"Date:")))
        return seconds


def main() -> None:
    """Measure and print."""
    options = _options()
    # As Ctrl-C does: leave by the way that stops the servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    first: dict[str, list[float]] = {"unknown user": [], "wrong password": []}
    again: dict[str, list[float]] = {"unknown user": [], "wrong password": []}
    with tempfile.TemporaryDirectory(prefix="companion-bench-") as folder, contextlib.ExitStack() as stack:
        count = str(options.logins)
        # Each name is tried twice only, far from being locked out.
        hooks = stack.enter_context(server("benchmarks._hooks_server", Path(folder, "hooks"), "1", count))
        asker = stack.enter_context(Asker(hooks.ports["http"]))
        names = {"unknown user": "nobody", "wrong password": "device"}
        for number in range(options.logins):
            # In turn which of them is first, so that neither profits from the other.
            for title in sorted(names, reverse=number % 2 == 1):
                username, password = f"{names[title]}-{number:03}", f"wrong-{number}"
                first[title].append(asker.login(username, password))
                again[title].append(asker.login(username, password))
    print_table(
        f"{options.logins} logins each, in turn: times from question to answer",
        _HEADINGS,
        [
            (
                title,
                str(len(first[title])),
                f"{median(first[title]) * 1000:.2f}",
                f"{sorted(first[title])[len(first[title]) * 9 // 10] * 1000:.2f}",
                f"{median(again[title]) * 1000:.2f}",
            )
            for title in names
        ],
    )
    print(f"Different answers, but for the date: {len(asker.answers)}")
    if len(asker.answers) != 1:
        raise SystemExit("the answers differ")
    if options.json:
        print_json(
            {
                "timing_unknown_ms": median(first["unknown user"]) * 1000,
                "timing_wrong_ms": median(first["wrong password"]) * 1000,
                "ratio_timing": median(first["unknown user"]) / median(first["wrong password"]),
                "ratio_timing_repeated": median(again["unknown user"]) / median(again["wrong password"]),
            }
        )


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--logins", type=int, default=200, help="logins of either kind")
    return parser.parse_args()


if __name__ == "__main__":
    main()
