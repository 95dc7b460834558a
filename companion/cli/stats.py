"""`companion stats`: what was counted, as a table and a bar chart."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from companion.cli.context import counted, print_json, print_rows, settings, with_store
from companion.core.ports import Store
from companion.core.stats import Stat
from companion.core.stats_view import Series, asked, series, shown

app = typer.Typer(help="Statistics: what was counted of changes, for whom and when.", no_args_is_help=True)

_BAR: Final = 40
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"


@app.callback()
def stats() -> None:
    """Look at what was counted."""


@app.command()
def show(
    owner: Annotated[str, typer.Option(help="Whose; an id, or empty for what belongs to nobody.")],
    key: Annotated[str | None, typer.Option(help="Such as THING_COUNT__CREATE_METRICS; all keys without it.")] = None,
    flag: Annotated[
        str | None, typer.Option(help="As what: actor, client, group, or empty for the owner; all without it.")
    ] = None,
    first: Annotated[str | None, typer.Option("--from", help="The first day, as 2026-01-31.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="The last day; today without it.")] = None,
    by: Annotated[str | None, typer.Option(help="hour, day or month; by the length of the time without it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what was counted between two days: with a key its course, without one the totals of all keys."""
    fields = {"owner": owner, "key": key, "flag": flag, "from": first, "to": last, "by": by}
    today = dt.datetime.fromtimestamp(time.time(), settings().zones().of(owner)).date()
    of = asked(fields, today)

    async def read(store: Store) -> Sequence[Stat]:
        return await store.statistics.read(of.owner, of.calendar, of.first, of.last, key=of.key, flag=of.flag)

    found = series(with_store(read), of)
    if as_json:
        print_json(shown(found, of))
        return
    days = f"{of.first.isoformat()} to {of.last.isoformat()}"
    if not found:
        typer.echo(f"nothing was counted for {owner!r} from {days}")
    elif key is None:
        typer.echo(f"{owner!r}, {days}")
        _print_totals(found)
    else:
        for one in found:
            typer.echo(f"{_named(one)} of {owner!r}, {days}")
            _print_course(one, of.by)


def _print_totals(found: Sequence[Series]) -> None:
    most = max(abs(one.total) for one in found)
    rows = [(one.key, one.flag or "owner", f"{one.total:,}", bar(one.total, most)) for one in found]
    print_rows(counted(len(rows), "key"), ("key", "as", "total", ""), rows)


def _print_course(one: Series, by: str) -> None:
    most = max(abs(value) for _, value in one.points)
    print_rows(
        f"{one.total:,} in all",
        (by, "value", ""),
        [(when, f"{value:,}", bar(value, most)) for when, value in one.points],
    )


def _named(one: Series) -> str:
    return f"{one.key} ({one.flag})" if one.flag else one.key


def bar(value: int, most: int, width: int = _BAR) -> str:
    """Return a bar whose length says how much of the most this is, to an eighth of a character; something is never nothing."""
    if value <= 0 or most <= 0:
        return ""
    eighths = max(1, round(value * width * 8 / most))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
