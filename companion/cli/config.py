"""`companion config`: the effective settings."""

from __future__ import annotations

from typing import Annotated

import typer

from companion.cli.context import loaded, print_json, print_rows
from companion.loading import PREFIX, displayed
from companion.settings import Settings


def config(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the effective settings, secrets hidden, and where each came from."""
    found = loaded()
    rows = [
        (name, value, found.origins[name], f"{PREFIX}{name.upper()}", Settings.model_fields[name].description or "")
        for name, value in displayed(found.settings)
    ]
    if as_json:
        print_json(
            {
                name: {"value": value, "origin": origin, "variable": variable}
                for name, value, origin, variable, _ in rows
            }
        )
        return
    print_rows(
        "settings",
        ("setting", "value", "from", "meaning"),
        [(name, value, origin, text) for name, value, origin, _, text in rows],
    )
    for variable in found.unknown:
        typer.echo(f"companion: note: {variable} is no setting and is ignored", err=True)
