"""`companion tokens`: add, list, revoke."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from broker_hooks.long_tokens import name_of_long_token
from companion.cli.audited import done, with_audited_store
from companion.cli.context import counted, print_json, print_rows, settings, with_store
from companion.cli.importing import check_username, parse_expiry
from companion.core.errors import Invalid
from companion.core.long_tokens import (
    SCOPES,
    WHOLE,
    LongToken,
    checked_addresses,
    checked_scopes,
    digest_of,
    new_token,
)
from companion.core.ports import Store
from companion.keys import apt_keys

app = typer.Typer(
    help="Long-lived tokens: passwords for programs, within limits, that can be taken back.", no_args_is_help=True
)


@app.command()
def add(
    username: Annotated[str, typer.Argument(help="User name with which it connects.", show_default=False)],
    name: Annotated[str, typer.Option(help="What it is for.", show_default=False)] = "",
    scope: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(SCOPES)}; several times for several.", show_default=WHOLE)
    ] = None,
    expires: Annotated[str, typer.Option(help="Its end, such as 2027-01-31T12:00:00Z.", show_default=False)] = "",
    address: Annotated[
        list[str] | None,
        typer.Option(
            help="Address or network from which it is good; several times for several.", show_default="anywhere"
        ),
    ] = None,
) -> None:
    """Make a token and print it. It is shown this once: what is kept cannot be turned back into it."""
    check_username(username, "username")
    if name and not name.isprintable():
        raise Invalid("--name", name, "printable text")
    keys = apt_keys(settings())
    if not keys:
        raise Invalid("apt_keys", "none", "the same keys for all processes, with store = production")
    token_id, text = new_token()
    token = LongToken(
        token_id,
        digest_of(text, keys[0]),
        username,
        checked_scopes(scope or [WHOLE]),
        name,
        parse_expiry(expires, "--expires"),
        checked_addresses(address or []),
        int(time.time()),
    )
    with_audited_store(
        lambda store: store.tokens.add(token),
        lambda _: [done("token_added", username=username, detail=f"token {token_id}")],
    )
    typer.echo(f"added token {token_id} for {username}; keep it, it is not shown again:", err=True)
    typer.echo(text)


@app.command("list")
def list_tokens(
    username: Annotated[str, typer.Option(help="Only those of this user name.", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the tokens and when each was last used; the tokens themselves are nowhere."""

    async def work(store: Store) -> list[dict[str, object]]:
        tokens = await store.tokens.list(username)
        used = await store.uses.latest([name_of_long_token(one.id) for one in tokens])
        return [
            {
                "id": one.id,
                "username": one.username,
                "name": one.name,
                "scopes": list(one.scopes),
                "addresses": list(one.addresses),
                "created_at": one.created_at,
                "expires_at": one.expires_at,
                "last_used": used.get(name_of_long_token(one.id)),
            }
            for one in tokens
        ]

    described = with_store(work)
    if as_json:
        print_json(described)
        return
    rows = [tuple(map(_shown, one.values())) for one in described]
    columns = ("id", "username", "name", "scopes", "addresses", "created", "expires", "last used")
    print_rows(counted(len(rows), "token"), columns, rows)


@app.command()
def revoke(token_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the token.", show_default=False)]) -> None:
    """Take a token back: it connects no more, and whoever is connected with it may nothing from now on."""

    async def work(store: Store) -> bool:
        removed = await store.tokens.remove(token_id)
        if removed:
            await store.uses.forget([name_of_long_token(token_id)])
        return removed

    if not with_audited_store(work, lambda found: [done("token_revoked", detail=f"token {token_id}")] if found else []):
        raise Invalid("id", token_id, "a token that exists (companion tokens list)")
    typer.echo(f"revoked token {token_id}")


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "any"
    if isinstance(value, int):
        return datetime.fromtimestamp(value, UTC).isoformat()
    return str(value) if value is not None else "never"
