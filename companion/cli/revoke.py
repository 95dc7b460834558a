"""`companion revoke`: refuse an account, a session, a token or a client from now on, and end what is connected."""

from __future__ import annotations

import asyncio
import getpass
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from companion.cli.context import counted, print_json, print_rows, settings, with_store
from companion.core.errors import Invalid
from companion.core.ports import Store
from companion.core.revocations import Revocation, Target, revocation_of, shown_revocation

app = typer.Typer(
    help="Revocations: who is refused, and what was done about whoever was connected.", no_args_is_help=True
)

_LOOK_SECONDS: Final = 0.2

Reason = Annotated[str, typer.Option(help="Why, for the audit.")]
Seconds = Annotated[
    float | None, typer.Option("--for", help="For so many seconds; until it is lifted without it.", show_default=False)
]
Ban = Annotated[float, typer.Option(help="Have the broker refuse too, for so many seconds.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until everybody was kicked.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RevocationId = Annotated[str, typer.Argument(metavar="ID", help="Id of the revocation.", show_default=False)]


@app.callback()
def revoke() -> None:
    """Refuse somebody, and look what came of it."""


@app.command()
def account(
    name: Annotated[str, typer.Argument(help="User name.", show_default=False)],
    reason: Reason = "",
    seconds: Seconds = None,
    ban: Ban = 0,
    wait: Wait = False,
) -> None:
    """Refuse a user name, whatever it shows, and kick all its clients."""
    _revoke(Target.ACCOUNT, name, reason=reason, seconds=seconds, ban=ban, wait=wait)


@app.command()
def client(
    name: Annotated[str, typer.Argument(help="Client id.", show_default=False)],
    reason: Reason = "",
    seconds: Seconds = None,
    ban: Ban = 0,
    wait: Wait = False,
) -> None:
    """Refuse a client id, whoever uses it, and kick it."""
    _revoke(Target.CLIENT, name, reason=reason, seconds=seconds, ban=ban, wait=wait)


@app.command()
def session(
    name: Annotated[str, typer.Argument(help="Id of the platform session.", show_default=False)],
    reason: Reason = "",
    seconds: Seconds = None,
    wait: Wait = False,
) -> None:
    """Refuse all tokens of a platform session, and kick its clients."""
    _revoke(Target.SESSION, name, reason=reason, seconds=seconds, wait=wait)


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="Its claim jti, or its SHA-256 in hexadecimal.", show_default=False)] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(help="File that holds the token itself (- is standard input).", show_default=False),
    ] = None,
    reason: Reason = "",
    seconds: Seconds = None,
    wait: Wait = False,
) -> None:
    """Refuse one token, and kick the clients that came with it. Of the token only a digest is kept."""
    text = "" if token_file is None else _read_token(token_file)
    _revoke(Target.TOKEN, name, token=text, reason=reason, seconds=seconds, wait=wait)


@app.command()
def kick(
    name: Annotated[str, typer.Argument(help="User name.", show_default=False)],
    reason: Reason = "",
    wait: Wait = False,
) -> None:
    """Kick all clients of a user name that are connected, and refuse nobody: they may come back at once."""
    _revoke(Target.ACCOUNT, name, reason=reason, wait=wait, refuse=False)


@app.command()
def lift(revocation_id: RevocationId, wait: Wait = False) -> None:
    """End a revocation: who was refused because of it is admitted again, and its ban is taken back."""

    async def work(store: Store) -> Revocation | None:
        lifted = await store.revocations.lift(revocation_id, int(time.time() * 1000))
        return lifted if lifted is None or not wait else await _follow(store, lifted)

    lifted = with_store(work)
    if lifted is None:
        raise _unknown(revocation_id)
    typer.echo(f"{lifted.id} is lifted: {lifted.target.value} {lifted.name} is admitted again")


@app.command()
def show(revocation_id: RevocationId, as_json: AsJson = False) -> None:
    """Show one revocation and what was done."""
    found = with_store(lambda store: store.revocations.get(revocation_id))
    if found is None:
        raise _unknown(revocation_id)
    if as_json:
        print_json(shown_revocation(found))
        return
    rows = [(name, str(value)) for name, value in shown_revocation(found).items() if value not in ("", None, [])]
    print_rows(found.id, ("what", "is"), [row for row in rows if row[0] != "steps"])
    steps = [(one.step.value, _when(one.at), f"{one.took} ms", one.detail) for one in found.steps]
    print_rows(counted(len(steps), "step"), ("step", "done", "took", "what came of it"), steps)


@app.command("list")
def list_revocations(
    waiting: Annotated[bool, typer.Option("--waiting", help="Only those about which something is left to do.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the newest revocations."""
    found = with_store(lambda store: store.revocations.list(waiting=True if waiting else None, limit=limit))
    if as_json:
        print_json([shown_revocation(one) for one in found])
        return
    rows = [
        (one.id, one.target.value, one.name, one.cause.value, _state(one), _when(one.at), one.error or one.reason)
        for one in found
    ]
    print_rows(counted(len(rows), "revocation"), ("id", "what", "name", "why", "state", "since", ""), rows)


def _revoke(
    target: Target,
    name: str,
    *,
    token: str = "",
    reason: str = "",
    seconds: float | None = None,
    ban: float = 0,
    wait: bool = False,
    refuse: bool = True,
) -> None:
    revocation = revocation_of(
        target,
        name,
        time.time(),
        token=token,
        seconds=seconds,
        ban=ban,
        reason=reason,
        asked_by=_who(),
        refuse=refuse,
    )

    async def work(store: Store) -> Revocation:
        await store.revocations.add(revocation)
        return await _follow(store, revocation) if wait else revocation

    kicks = bool(settings().emqx_url)
    found = with_store(work)
    typer.echo(f"{target.value} {found.name} is {'refused from now on' if refuse else 'to be kicked'} ({found.id})")
    if not kicks:
        typer.echo("companion: note: nobody is kicked: COMPANION_EMQX_URL is not set here", err=True)
    elif not found.waiting:
        typer.echo("; ".join(f"{one.step.value}: {one.detail or 'done'}" for one in found.steps))


async def _follow(store: Store, revocation: Revocation) -> Revocation:
    """Wait until nothing is left to do; Ctrl-C stops the waiting, not the work."""
    found: Revocation | None = revocation
    while found is not None and found.waiting:
        await asyncio.sleep(_LOOK_SECONDS)
        found = await store.revocations.get(revocation.id)
    return found or revocation


def _read_token(file: Path) -> str:
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as problem:
        raise Invalid("--token-file", str(file), f"a UTF-8 file that can be read ({problem})") from None
    if not text.strip():
        raise Invalid("--token-file", str(file), "a file that holds a token")
    return text.strip()


def _who() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"


def _unknown(revocation_id: str) -> Invalid:
    return Invalid("ID", revocation_id, "a revocation that there is (companion revoke list)")


def _state(one: Revocation) -> str:
    words: Sequence[str] = (
        "lifted" if one.lifted_at is not None else "stands" if one.stands(time.time()) else "refuses nobody",
        "waiting" if one.waiting else "done",
    )
    return ", ".join(words)


def _when(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(sep=" ", timespec="seconds")
