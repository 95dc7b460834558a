"""`companion audit`: whether the audit is what it was."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from companion.cli.context import counted, print_json, print_rows, settings, with_store
from companion.core.errors import Permanent
from companion.core.ports import Store
from companion.core.seals import Report, SealCheck, shown_seal

app = typer.Typer(help="The audit: its chains and its seals.", no_args_is_help=True)


@app.callback()
def audit() -> None:
    """Look at the audit."""


@app.command()
def verify(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check every record, chain and seal; exits 1 when something was removed, inserted or altered."""
    # Only this command needs what jobs are made of.
    from maintenance import roots  # noqa: PLC0415 - see above
    from maintenance.audit_check import check_all, cut_of, read_seals  # noqa: PLC0415 - see above

    current, now, report = settings(), int(time.time() * 1000), Report()
    path = roots.file_of(current)
    kept = roots.read(path)

    async def look(store: Store) -> SealCheck:
        sealed = await read_seals(store.audits, report, kept)
        cut = await cut_of(store.audits, current, now)
        async for _ in check_all(store.audits, report, sealed, cut=cut, now=now):
            pass
        return sealed

    sealed = with_store(look)
    last = None if sealed.last is None else shown_seal(sealed.last)
    counts = dict(report.counts())
    if as_json:
        problems = [one._asdict() for one in report.problems]
        print_json({"counts": counts, "last seal": last, "roots": len(kept), "problems": problems})
    else:
        typer.echo(
            f"{counted(report.checked, 'record')} checked against {counted(last['seal'] if last else 0, 'seal')}"
        )
        for name, count in counts.items():
            if name not in ("checked", "problems"):
                typer.echo(f"{count} {_MEANING[name]}")
        if last:
            typer.echo(f"last seal: {last['root']}")
        typer.echo(
            f"{counted(len(kept), 'root')} in {path}"
            if kept
            else f"no roots in {path}: the seals have no witness outside of the store"
        )
        if report.problems:
            print_rows("problems", ("where", "what"), report.problems)
    if report.count:
        raise Permanent(f"{counted(report.count, 'problem')} in the audit")


_MEANING = {
    "pseudonymised": "pseudonymised: who it was was replaced, all else is as it was",
    "expired": "removed when they were old enough",
    "unsealed": "not sealed yet",
    "outside of a chain": "outside of any chain",
}
