"""`companion refused`: who was refused lately, and why."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from companion.cli.context import print_json, print_rows, with_store
from companion.core.refusals import refusals, shown, since

_MOST = 10_000


def refused(
    since_text: Annotated[str, typer.Option("--since", help="A time, or how long ago: 30m, 12h, 7d.")] = "24h",
    username: Annotated[str, typer.Option(help="Only of this user name.", show_default=False)] = "",
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="Most lines that are shown.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show who was refused, by the hooks or by the broker itself, the last first; of the newest 10,000 refusals."""
    begin = since(since_text, time.time())
    audits = with_store(lambda store: store.audits.refused(begin, _MOST))
    found = refusals(one for one in audits if username in ("", one.username))[:limit]
    lines = shown(found)
    if as_json:
        print_json(lines)
        return
    columns = ("last", "count", "user", "client", "from", "hook", "reason", "topic", "rule")
    fields = ("last", "count", "username", "client_id", "peer_host", "hook", "reason", "topic", "rule")
    more = " (there are more: only the newest 10,000 refusals are looked at)" if len(audits) == _MOST else ""
    print_rows(f"{len(lines)} refused{more}", columns, [tuple(str(line[name]) for name in fields) for line in lines])
