"""`companion change`: send one change to a running service."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from companion.background import run
from companion.cli.context import settings
from companion.cli.operations_port import operations_connector, operations_url
from companion.core.errors import CompanionError, Invalid, Transient
from companion.core.model import ChangeOp
from companion.keys import ops_keys
from companion.settings import Settings

_TIMEOUT_SECONDS = 30
_ACCEPTED = 202


def change(
    op: Annotated[ChangeOp, typer.Option(help="What happened.")] = ChangeOp.UPDATE,
    db: Annotated[str, typer.Option(help="Database, such as thing.", show_default=False)] = "",
    collection: Annotated[str, typer.Option(help="Collection, such as devices.", show_default=False)] = "",
    entity_id: Annotated[str, typer.Option("--id", help="Id of the entity.", show_default=False)] = "",
    owner: Annotated[str, typer.Option(help="Who owns it.", show_default=False)] = "",
    share: Annotated[
        list[str] | None, typer.Option(help="Who shares it; may be given several times.", show_default=False)
    ] = None,
    client: Annotated[
        list[str] | None, typer.Option(help="Client applications; several times.", show_default=False)
    ] = None,
    group: Annotated[list[str] | None, typer.Option(help="Groups; several times.", show_default=False)] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="JSON of a change or a list of changes instead (- is standard input).", show_default=False),
    ] = None,
    url: Annotated[
        str, typer.Option(help="Operations port of the service; from the settings when not given.", show_default=False)
    ] = "",
) -> None:
    """Send a change of an entity to a running service, which publishes it."""
    if file is not None:
        body = _read(file)
    else:
        entity: dict[str, Any] = {"id": entity_id, "owner": owner, "shares": share, "clients": client, "groups": group}
        known = {name: value for name, value in entity.items() if value}
        # What is deleted or destroyed is known by what it was.
        side = "before" if op in (ChangeOp.DELETE, ChangeOp.DESTROY) else "after"
        body = json.dumps({"op": op.value, "db": db, "collection": collection, "id": entity_id, side: known}).encode()
    typer.echo(run(_send(settings(), url, body)))


async def _send(current: Settings, url: str, body: bytes) -> str:
    # Takes longer to import than most commands run.
    import aiohttp  # noqa: PLC0415 - see above

    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    address = f"{operations_url(current, url)}/changes"
    headers = {"Authorization": f"Bearer {ops_keys(current)[0]}", "Content-Type": "application/json"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=operations_connector(current)) as session,
            session.post(address, data=body, headers=headers) as response,
        ):
            text = await response.text()
            if response.status != _ACCEPTED:
                raise CompanionError(f"the service refused the change ({response.status}): {_error(text)}")
            return text
    except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
        raise Transient(
            f"no answer from {address}: {str(problem) or type(problem).__name__}; is companion serve running?"
        ) from None


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as problem:
        raise Invalid("--file", str(file), f"a file that can be read ({problem.strerror})") from None


def _error(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text[:200].replace("\n", " ")
