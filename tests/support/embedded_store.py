"""The embedded store from outside: what its file holds, and how opening it is refused."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from companion.core.errors import CompanionError
from companion.stores.embedded import EmbeddedStore
from companion.stores.embedded.store import FILE_NAME


def query(data_dir: Path, statement: str) -> list[tuple[object, ...]]:
    """Ask the file itself, past the store."""
    with contextlib.closing(sqlite3.connect(data_dir / FILE_NAME, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


async def refused(data_dir: Path, kind: type[CompanionError]) -> str:
    """Return the one line with which opening is refused."""
    with pytest.raises(kind) as problem:
        async with EmbeddedStore.open(data_dir):
            pass
    message = str(problem.value)
    assert message.isprintable()
    return message
