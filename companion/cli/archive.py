"""`companion archive`: what the cleaner has put away, whether it is whole, and how it comes back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from companion.cli.context import counted, print_json, print_rows, settings, with_store
from companion.core.errors import CompanionError, Invalid, Permanent
from companion.core.ports import Store
from companion.settings.archives import place_of
from maintenance.archive.manifest import Manifest
from maintenance.archive.target import Target, target_of

app = typer.Typer(help="Archives of the cleaner.", no_args_is_help=True)

_BATCH: Final = 1000

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the archive (companion archive list).", show_default=False)
]
In = Annotated[
    str | None,
    typer.Option("--folder", help="Folder of the archives, or s3://bucket/prefix, if not that of the settings."),
]


@app.callback()
def archive() -> None:
    """Look after the archives."""


@app.command("list")
def list_archives(
    folder: In = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the archives, oldest first."""
    found = _target(folder).list()
    if as_json:
        print_json([{"name": one.name, **_fields(one)} for one in found])
        return
    rows = [
        (
            one.name,
            one.collection,
            f"{one.count:,}",
            f"{one.size:,}",
            dt.datetime.fromtimestamp(one.written_at / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
        for one in found
    ]
    print_rows(counted(len(rows), "archive"), ("name", "collection", "documents", "bytes", "written"), rows)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Only this one.", show_default=False)] = "",
    folder: In = None,
) -> None:
    """Read archives from end to end; exits 1 when one is not what its manifest says."""
    where = _target(folder)
    chosen = [_named(where, name)] if name else where.list()
    broken = 0
    for one in chosen:
        try:
            where.verify(one)
        except CompanionError as problem:
            broken += 1
            typer.echo(f"{one.name}: {problem}")
        else:
            typer.echo(f"{one.name}: {one.count:,} documents, whole")
    if broken:
        raise Permanent(f"{broken} of {len(chosen)} archives are not whole")


@app.command()
def restore(name: Name, folder: In = None) -> None:
    """Bring the documents of an archive back into their collection; those that are there are not touched."""
    where = _target(folder)
    manifest = _named(where, name)
    where.verify(manifest)

    async def put_back(store: Store) -> int:
        restored = 0
        for lines in where.lines(manifest, _BATCH):
            restored += await store.documents.restore(manifest.collection, lines.splitlines())
        return restored

    restored = with_store(put_back)
    typer.echo(f"{restored:,} of {manifest.count:,} documents are back in {manifest.collection}, the others were there")


def _target(folder: str | None) -> Target:
    try:
        place = place_of(folder) if folder else None
    except ValueError as problem:
        raise Invalid("--folder", folder, str(problem)) from None
    return target_of(settings(), place)


def _named(where: Target, name: str) -> Manifest:
    found: Sequence[Manifest] = [one for one in where.list() if one.name == name]
    if not found:
        raise Invalid("archive", name, "an archive that exists (companion archive list)")
    return found[0]


def _fields(one: Manifest) -> dict[str, object]:
    names = (
        "policy",
        "run",
        "fence",
        "collection",
        "count",
        "size",
        "sha256",
        "first_id",
        "last_id",
        "before",
        "written_at",
    )
    return {name: getattr(one, name) for name in names}
