"""Looks for single rows, done together: each has its own answer, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from companion.core.errors import Permanent, Transient
from companion.stores.embedded.database import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """Open a file."""
    async with Database(tmp_path / "store.sqlite3") as opened:
        yield opened


async def test_each_its_own(database: Database) -> None:
    """What is asked for at one moment is done by one thread in one go, and a fault is told to whom it happened."""
    threads: list[int] = []

    async def look(number: int) -> int:
        def job(connection: sqlite3.Connection) -> int:
            threads.append(threading.get_ident())
            if number == 7:
                connection.execute("SELECT nothing FROM nowhere")
            if number == 8:
                raise KeyError(number)
            (found,) = connection.execute("SELECT ?", (number,)).fetchone()
            return int(found)

        return await database.look(job)

    told = await asyncio.gather(*map(look, range(100)), return_exceptions=True)
    assert isinstance(told[7], Permanent)
    assert isinstance(told[8], KeyError)
    assert [one for number, one in enumerate(told) if number not in (7, 8)] == [*range(7), *range(9, 100)]
    assert len(threads) == 100
    assert len(set(threads)) == 1


async def test_who_has_gone(database: Database) -> None:
    """Who does not wait any more is not looked for; the others get theirs."""
    looked: list[int] = []

    def looking(number: int) -> asyncio.Task[None]:
        return asyncio.ensure_future(database.look(lambda _: looked.append(number)))

    waiting = [looking(number) for number in range(3)]
    # All have asked; one is gone before anybody has looked.
    asyncio.get_running_loop().call_soon(waiting[1].cancel)
    await asyncio.wait(waiting)
    assert waiting[1].cancelled()
    assert looked == [0, 2]


async def test_the_end(tmp_path: Path) -> None:
    """What was asked for before the end is answered or refused; what comes after it is refused."""
    database = Database(tmp_path / "store.sqlite3")
    async with database:
        before = asyncio.ensure_future(database.look(lambda _: 1))
        await asyncio.sleep(0)
    (told,) = await asyncio.gather(before, return_exceptions=True)
    assert told == 1 or isinstance(told, Transient)
    with pytest.raises(Transient):
        await database.look(lambda _: 1)
