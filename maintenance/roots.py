"""The roots of the audit's seals, in a file: a witness outside of the store. One JSON object a line, only ever appended."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from companion.core.errors import Invalid
from companion.core.seals import Seal, shown_seal
from companion.settings import Settings

_NAME: Final = "audit-roots.jsonl"


class _Line(msgspec.Struct):
    seal: int
    root: str


def file_of(settings: Settings) -> Path:
    """Return where the roots lie."""
    return settings.audit_roots or settings.data_dir / _NAME


def read(path: Path) -> Mapping[int, str]:
    """Return the roots by the numbers of their seals; none where there is no file. A line that was torn by a crash counts as none.

    Raises `Invalid` for a file that cannot be read.
    """
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
        found = [msgspec.json.decode(line, type=_Line) for line in lines]
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as problem:
        raise Invalid("audit_roots", str(path), f"a file of JSON lines that can be read ({problem})") from None
    return {one.seal: one.root for one in found}


def append(path: Path, seals: Sequence[Seal]) -> None:
    """Add these, durably. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        # What a crash has torn is overwritten.
        end = file.read().rfind(b"\n") + 1
        file.seek(end)
        file.truncate()
        file.write(b"".join(msgspec.json.encode(shown_seal(seal)) + b"\n" for seal in seals))
        file.flush()
        os.fsync(file.fileno())
