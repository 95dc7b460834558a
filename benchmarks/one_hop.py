"""What a session costs the hooks when EMQX takes the whole policy with the login, and when it asks: `python -m benchmarks.one_hop`.

Two servers run, each a process: the product as it is, and the same giving lists (`COMPANION_HOOKS_ACL`). Both are asked to
authenticate the same platform sessions, whose tokens they have verified before; the first also to authorize their publishes and
subscriptions. They are loaded in turn, never two at once, and compared round by round. From what one request costs follows what a
session does that logs in once and uses sixteen topics, each asked about once: the broker's cache is given all it can save.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from benchmarks import _traffic
from benchmarks._load import Exchange, Load, Result, run
from benchmarks._options import load_options
from benchmarks._processes import Server, metric, server
from benchmarks._report import print_json, print_table, ratio
from companion.core.acl import NotExact, compile_acl
from companion.core.policy import OWN_TOPICS

_WARM_UP: Final = 0.5
_TOPICS: Final = 16
_TITLES: Final = {"login": "login", "login_with_list": "login with a list", "access": "publish or subscribe"}


def main() -> None:
    """Measure and print."""
    options = load_options(__doc__, connections=32, seconds=3.0)
    # As Ctrl-C does: leave by the way that stops the servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="companion-bench-") as folder, contextlib.ExitStack() as stack:
        asking = stack.enter_context(server("benchmarks._hooks_server", Path(folder, "asking")))
        giving = stack.enter_context(server("benchmarks._one_hop_server", Path(folder, "giving")))
        sessions = _traffic.sessions()
        logins = _traffic.logins(sessions)
        listed = [_with_list(login, client) for login, client in zip(logins, sessions, strict=True)]
        _measured(asking, logins, len(logins), _WARM_UP)
        subjects = {
            "login": (asking, logins),
            "login_with_list": (giving, listed),
            "access": (asking, _traffic.accesses(sessions)),
        }
        rounds = [
            {name: _measured(*subject, options.connections, options.seconds) for name, subject in subjects.items()}
            for _ in range(options.rounds)
        ]
        given = metric(giving, "companion_acl_lists_total")
    results = {name: [one[name] for one in rounds] for name in subjects}
    sessions_asked = [_session(one) for one in rounds]
    sessions_given = [one["login_with_list"].server_microseconds for one in rounds]
    print_table(
        f"{options.rounds} rounds of {options.seconds:g} s each, {options.connections} connections: medians",
        ("requests/s", "p99 ms", "µs/request"),
        [_row(name, results[name]) for name in results],
    )
    size = len(listed[0].answer) - len(logins[0].answer)
    saved = ratio(sessions_asked, sessions_given)
    print(f"A list has {size} bytes here; {given:,.0f} were given.")
    print(
        f"A session with {_TOPICS} topics: {1 + _TOPICS} requests and {median(sessions_asked):,.0f} µs of the hooks when the "
        f"broker asks, 1 request and {median(sessions_given):,.0f} µs with a list ({saved:.1f} times less)."
    )
    if options.json:
        print_json(
            {f"{name}_requests_per_second": median(_rates(results[name])) for name in results}
            | {f"{name}_microseconds": median(one.server_microseconds for one in results[name]) for name in results}
            | {"ratio_login_with_list": ratio(_rates(results["login_with_list"]), _rates(results["login"]))}
            | {"session_asked_to_given": saved, "list_bytes": size}
        )


def _with_list(login: Exchange, client: _traffic.Client) -> Exchange:
    """Return the same request, for a server that answers with the client's list."""
    session = client.client_id.partition(":")[0]
    values = {
        "username": client.username,
        "clientid": client.client_id,
        "principal": client.principal,
        "session": session,
    }
    acl = compile_acl((*_traffic.RULES, *OWN_TOPICS), values, max_topics=64, max_bytes=16_384)
    if isinstance(acl, NotExact):
        raise TypeError(f"the rules of the benchmark have no list: {acl.why}")
    fields = msgspec.json.decode(login.answer, type=dict[str, object])
    return Exchange(login.request, msgspec.json.encode(fields | {"acl": msgspec.Raw(acl)}))


def _measured(running: Server, exchanges: Sequence[Exchange], connections: int, seconds: float) -> Result:
    return run(Load(running.ports["http"], running.pid, list(exchanges), connections, seconds, _WARM_UP))


def _session(results: Mapping[str, Result]) -> float:
    """Return what a session takes of the server when the broker asks, in microseconds."""
    return results["login"].server_microseconds + _TOPICS * results["access"].server_microseconds


def _rates(results: Iterable[Result]) -> list[float]:
    return [one.requests_per_second for one in results]


def _row(name: str, results: Sequence[Result]) -> tuple[str, ...]:
    return (
        _TITLES[name],
        f"{median(_rates(results)):,.0f}",
        f"{median(one.p99_ms for one in results):.2f}",
        f"{median(one.server_microseconds for one in results):.1f}",
    )


if __name__ == "__main__":
    main()
