"""SQLite's errors, as ours."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Final

from companion.core.errors import CompanionError, Permanent, Transient

_PERMANENT: Final = frozenset(
    {
        "SQLITE_CORRUPT",
        "SQLITE_NOTADB",
        "SQLITE_CONSTRAINT",
        "SQLITE_MISMATCH",
        "SQLITE_SCHEMA",
        "SQLITE_ERROR",
        "SQLITE_TOOBIG",
        "SQLITE_RANGE",
    }
)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn SQLite's errors into `Transient` (busy, full, I/O) and `Permanent` (corrupt, wrong schema, values it cannot hold)."""
    try:
        yield
    except sqlite3.Error as problem:
        name = getattr(problem, "sqlite_errorname", "")
        base = "_".join(name.split("_")[:2])
        error: type[CompanionError] = Permanent if base in _PERMANENT else Transient
        raise error(f"embedded store: {problem}") from problem
    except (UnicodeEncodeError, OverflowError) as problem:
        raise Permanent("embedded store: text that is not UTF-8, or a number beyond 64 bits") from problem
