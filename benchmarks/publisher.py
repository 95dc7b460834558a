"""Changes per second from `POST /changes` to the broker's acknowledgement, against gmqtt alone: `python -m benchmarks.publisher`.

Each change concerns one owner and so becomes one message. A change is taken over durably, routed, published at QoS 1 and marked as
acknowledged; the measure publishes as many ready messages over the same broker with the same window, and keeps nothing. Both run
in turn, each in its own process, and are compared round by round.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import signal
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from benchmarks._broker import mosquitto
from benchmarks._options import parser_of
from benchmarks._processes import Server, metric, server
from benchmarks._publisher_server import OPS_KEY
from benchmarks._raw_publisher import Raw, messages_per_second
from benchmarks._report import print_json, print_table, ratio

_BATCH: Final = 500
_ENTITIES: Final = 1000
_WINDOW: Final = 64
_ACKNOWLEDGED: Final = "companion_messages_acknowledged_total"
_PATIENCE: Final = 120.0


def main() -> None:
    """Measure and print."""
    options = _options()
    # As Ctrl-C does: leave by the way that stops the servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bodies = [_body(first) for first in range(0, options.changes, _BATCH)]
    changes = len(bodies) * _BATCH
    with tempfile.TemporaryDirectory(prefix="companion-bench-") as name, contextlib.ExitStack() as stack:
        port = stack.enter_context(mosquitto(Path(name, "broker")))
        service = stack.enter_context(server("benchmarks._publisher_server", Path(name, "publisher"), str(port)))
        raw = Raw(port, changes, _WINDOW)
        rounds = [(_changes_per_second(service, bodies), messages_per_second(raw)) for _ in range(options.rounds)]
    pipeline, alone = zip(*rounds, strict=True)
    compared = ratio(pipeline, alone)
    print_table(
        f"{options.rounds} rounds of {changes} changes in batches of {_BATCH}, window {_WINDOW}: medians",
        ("per second", "ratio"),
        [
            ("gmqtt alone, messages", f"{median(alone):,.0f}", "1.00"),
            ("POST /changes to acknowledged, changes", f"{median(pipeline):,.0f}", f"{compared:.2f}"),
        ],
    )
    if options.json:
        print_json(
            {
                "raw_messages_per_second": median(alone),
                "pipeline_changes_per_second": median(pipeline),
                "ratio_pipeline": compared,
            }
        )


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=5)
    parser.add_argument("--changes", type=int, default=10_000, help="changes of one round, in whole batches")
    return parser.parse_args()


def _body(first: int) -> bytes:
    return msgspec.json.encode([_change(number % _ENTITIES) for number in range(first, first + _BATCH)])


def _change(entity: int) -> dict[str, object]:
    identity, owner = f"66a1d9e4b{entity:015x}", f"64b7f0c2a{entity:015x}"
    return {
        "op": "update",
        "db": "thing",
        "collection": "devices",
        "id": identity,
        "after": {"id": identity, "owner": owner, "name": f"device {entity}", "state": "on", "version": 7},
    }


def _changes_per_second(service: Server, bodies: list[bytes]) -> float:
    before = metric(service, _ACKNOWLEDGED)
    headers = {"Authorization": f"Bearer {OPS_KEY}", "Content-Type": "application/json"}
    started = time.perf_counter()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", service.ports["ops"])) as connection:
        for body in bodies:
            connection.request("POST", "/changes", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != http.HTTPStatus.ACCEPTED:
                raise RuntimeError(f"{answer.status}: {text.decode()}")
    changes = len(bodies) * _BATCH
    while metric(service, _ACKNOWLEDGED) < before + changes:
        if time.perf_counter() > started + _PATIENCE:
            raise RuntimeError(f"not all of {changes} changes were acknowledged within {_PATIENCE:g} s")
        time.sleep(0.05)
    return changes / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
