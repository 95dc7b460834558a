"""`companion stores`: what an operator should know about the stores."""

from __future__ import annotations

from typing import Annotated

import typer

from companion.background import run
from companion.cli.context import print_json, print_rows, settings
from companion.core.errors import Permanent
from companion.stores.checking import check as check_stores

app = typer.Typer(help="The stores behind the service.", no_args_is_help=True)


@app.callback()
def stores() -> None:
    """Look after the stores."""


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at everything that the configured stores need, and change nothing; exits 1 when something is wrong."""
    findings = run(check_stores(settings()))
    if as_json:
        print_json([{"store": one.store, "what": one.what, "problem": one.problem} for one in findings])
    else:
        rows = [(one.store, one.what, one.problem or "ok") for one in findings]
        print_rows("stores", ("store", "what", "state"), rows)
    wrong = sum(one.problem is not None for one in findings)
    if wrong:
        raise Permanent(f"{wrong} of {len(findings)} checks failed")
