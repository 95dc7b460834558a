"""`companion presence`: who is connected, as the broker told it."""

from __future__ import annotations

from typing import Annotated

import typer

from companion.cli.context import counted, print_json, print_rows, with_store
from companion.core.presence_view import asked, shown


def presence(
    principal: Annotated[str, typer.Option(help="Only the clients of this principal.", show_default=False)] = "",
    client: Annotated[str, typer.Option(help="Only this client id.", show_default=False)] = "",
    state: Annotated[str, typer.Option(help="online, offline or any.")] = "any",
    after: Annotated[str, typer.Option(help="Only client ids behind this one.", show_default=False)] = "",
    limit: Annotated[str, typer.Option(help="Most clients that are shown.")] = "100",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show who is connected, and who was and when that ended, in the order of the client ids."""
    fields = {"principal": principal, "client": client, "state": state, "after": after, "limit": limit}
    of = asked(fields)
    found = with_store(
        lambda store: store.presence.list(
            principal=of.principal, client_id=of.client_id, online=of.online, after=of.after, limit=of.limit
        )
    )
    lines = shown(found)
    if as_json:
        print_json(lines)
        return
    rows = [
        (
            line["client_id"],
            line["principal"],
            "online" if line["online"] else "offline",
            line["connected_at"] or "?",
            line["disconnected_at"] or "",
            line["reason"],
            line["peer"],
            line["node"],
        )
        for line in lines
    ]
    online = sum(one.online for one in found)
    columns = ("client", "principal", "state", "connected", "disconnected", "reason", "peer", "node")
    print_rows(f"{counted(len(rows), 'client')}, {online} online", columns, rows)
