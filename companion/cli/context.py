"""What commands share: the settings, the store, ways to read secrets and to print tables."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from companion.background import run
from companion.core.errors import Invalid
from companion.core.ports import Store
from companion.loading import CONFIG, Loaded, load
from companion.settings import Settings
from companion.stores.opening import open_store

T = TypeVar("T")

_config_file: list[Path] = []


def use_config(path: Path | None) -> None:
    """Remember the file that `--config` named, for this process."""
    _config_file[:] = [] if path is None else [path]


def loaded() -> Loaded:
    """Read the settings; raises `Invalid`."""
    environ = dict(os.environ)
    if _config_file:
        environ[CONFIG] = str(_config_file[0])
    return load(environ)


def settings() -> Settings:
    """Return the settings, after a word about variables that nobody understands."""
    found = loaded()
    for variable in found.unknown:
        typer.echo(f"companion: note: {variable} is no setting and is ignored", err=True)
    return found.settings


def with_store(work: Callable[[Store], Awaitable[T]]) -> T:
    """Open the store, do the work, close the store."""

    async def main() -> T:
        async with open_store(settings()) as store:
            return await work(store)

    return run(main())


def read_password(file: Path | None) -> str:
    """Return a password from a file (`-` is standard input; one trailing line break is cut) or from a prompt, asked twice."""
    if file is None:
        if not sys.stdin.isatty():
            raise Invalid(
                "--password-file", "no file", "a file when there is no terminal to ask at; - is standard input"
            )
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as problem:
        raise Invalid("--password-file", str(file), f"a UTF-8 file that can be read ({problem})") from None
    return text.removesuffix("\n").removesuffix("\r")


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for people, as wide as its content; what came from data cannot style it."""
    table = Table(title=title, title_justify="left", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_printable(cell) for cell in row))
    width = None if sys.stdout.isatty() else 200
    Console(width=width, markup=False, highlight=False).print(table)


def counted(count: int, what: str) -> str:
    """Return a count with its noun: `counted(1, "rule")` is "1 rule", of any other count "2 rules"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print JSON for programs."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _printable(cell: str) -> str:
    return cell if cell.isprintable() else ascii(cell)[1:-1]
