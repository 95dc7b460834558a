"""`companion lockouts`: who is refused unseen, and letting them try again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from companion.cli.context import counted, print_json, print_rows, with_store
from companion.core.errors import Invalid
from companion.core.lockouts import Lockout
from companion.core.ports import Store

app = typer.Typer(help="Lock-outs: who was refused too often to be listened to now.", no_args_is_help=True)

_MOST: Final = 10_000


@app.command("list")
def list_lockouts(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the lock-outs that hold, newest first; without a user name everybody at the address is meant."""
    lockouts = with_store(lambda store: store.lockouts.active(_MOST))
    if as_json:
        print_json(
            [
                {
                    "username": one.target.username,
                    "address": one.target.address,
                    "times": one.times,
                    "until": _moment(one),
                }
                for one in lockouts
            ]
        )
        return
    rows = [(one.target.username, one.target.address, str(one.times), _moment(one)) for one in lockouts]
    print_rows(counted(len(rows), "lock-out"), ("user name", "address", "times", "until"), rows)


@app.command()
def clear(
    username: Annotated[str, typer.Option(help="Those of this user name.", show_default=False)] = "",
    address: Annotated[str, typer.Option(help="Those of this address or IPv6 /64.", show_default=False)] = "",
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """End lock-outs and forget how often they were; every process knows within a second. Bans at the broker go on to their end."""
    if not (username or address or everything) or (everything and (username or address)):
        raise Invalid(
            "--username, --address, --all", "none, or --all with others", "a user name, an address, both, or --all"
        )

    def meant(one: Lockout) -> bool:
        return (not username or one.target.username == username) and (not address or one.target.address == address)

    async def lift(store: Store) -> int:
        lifted = 0
        for one in await store.lockouts.active(_MOST):
            if meant(one):
                lifted += await store.lockouts.lift(one.target.key)
        return lifted

    count = with_store(lift)
    if not count and not everything:
        raise Invalid(
            "--username, --address", f"{username} {address}".strip(), "one that is locked out (companion lockouts list)"
        )
    typer.echo(f"lifted {count} lock-out{'' if count == 1 else 's'}")


def _moment(one: Lockout) -> str:
    return datetime.fromtimestamp(one.until // 1000, UTC).isoformat()
