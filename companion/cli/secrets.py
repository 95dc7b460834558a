"""`companion accounts secrets`: add, list, remove."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from broker_hooks.hashing import hash_password
from broker_hooks.secrets_of import refusal_of
from broker_hooks.uses import name_of_secret
from companion.cli.audited import done, with_audited_store
from companion.cli.context import counted, print_json, print_rows, read_password, settings, with_store
from companion.cli.importing import parse_expiry
from companion.core.errors import Invalid
from companion.core.model import MAX_SECRETS, Account, AccountSecret, Reason
from companion.core.ports import Store

app = typer.Typer(
    help="Further secrets of an account: one is replaced by another while both are good.", no_args_is_help=True
)

Username = Annotated[str, typer.Argument(help="User name of the account.", show_default=False)]

_STATES = {Reason.SECRET_NOT_YET: "not yet", Reason.SECRET_EXPIRED: "expired"}


@app.command()
def add(
    username: Username,
    not_before: Annotated[
        str, typer.Option(help="From when it is good, such as 2027-01-31T12:00:00Z.", show_default=False)
    ] = "",
    not_after: Annotated[str, typer.Option(help="Until when it is good.", show_default=False)] = "",
    password_file: Annotated[
        Path | None,
        typer.Option(help="File that holds the secret (- is standard input); else you are asked.", show_default=False),
    ] = None,
) -> None:
    """Give an account one more secret beside its password."""
    begins, ends = parse_expiry(not_before, "--not-before"), parse_expiry(not_after, "--not-after")
    if begins is not None and ends is not None and begins >= ends:
        raise Invalid("--not-after", not_after, "later than --not-before")
    text = read_password(password_file)
    secret_id = secrets.token_hex(4)

    async def work(store: Store) -> bool:
        account = await store.accounts.get(username)
        if account is None:
            return False
        hashed = hash_password(text, settings().password_cost, account.password_hash)
        return await store.accounts.add_secret(username, AccountSecret(secret_id, hashed, begins, ends))

    if not with_audited_store(
        work, lambda found: [done("account_secret_added", username=username, detail=secret_id)] if found else []
    ):
        raise _unknown(username)
    typer.echo(f"added secret {secret_id} of {username}")


@app.command("list")
def list_secrets(
    username: Username, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the secrets of an account, the password first, and when each was last used."""

    async def work(store: Store) -> tuple[Account | None, dict[str, int]]:
        account = await store.accounts.get(username)
        ids = ["", *(one.id for one in account.secrets)] if account else []
        names = {name_of_secret(username, one): one for one in ids}
        return account, {names[name]: at for name, at in (await store.uses.latest(list(names))).items()}

    account, used = with_store(work)
    if account is None:
        raise _unknown(username)
    now = time.time()
    password = AccountSecret("", account.password_hash)
    described = []
    for one in (password, *account.secrets):
        refused = refusal_of(one, now)
        described.append(
            {
                "id": one.id or "password",
                "state": _STATES[refused.reason] if refused else "good",
                "not_before": one.not_before,
                "not_after": one.not_after,
                "last_used": used.get(one.id),
            }
        )
    if as_json:
        print_json(described)
        return
    rows = [
        (str(one["id"]), str(one["state"]), *(_shown(one[name]) for name in ("not_before", "not_after", "last_used")))
        for one in described
    ]
    print_rows(
        f"{counted(len(rows), 'secret')}, {MAX_SECRETS} beside the password at most",
        ("id", "state", "not before", "not after", "last used"),
        rows,
    )


@app.command()
def remove(
    username: Username,
    secret_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the secret.", show_default=False)],
) -> None:
    """Take a secret away; the password stays."""

    async def work(store: Store) -> bool:
        removed = await store.accounts.remove_secret(username, secret_id)
        if removed:
            await store.uses.forget([name_of_secret(username, secret_id)])
        return removed

    if not with_audited_store(
        work, lambda found: [done("account_secret_removed", username=username, detail=secret_id)] if found else []
    ):
        raise Invalid("id", secret_id, f"a secret of {username} (companion accounts secrets list)")
    typer.echo(f"removed secret {secret_id} of {username}")


def _unknown(username: str) -> Invalid:
    return Invalid("username", username, "an account that exists (companion accounts list)")


def _shown(at: int | str | None) -> str:
    return datetime.fromtimestamp(int(at), UTC).isoformat() if at is not None else "-"
