"""The embedded store and its file: who may use it, what is no store, and what is damaged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from companion.core.errors import CompanionError, Permanent, Transient
from companion.core.model import Notice, Scope
from companion.stores.embedded import EmbeddedStore
from companion.stores.embedded.database import Database
from companion.stores.embedded.store import FILE_NAME
from tests.support.embedded_store import query, refused
from tests.support.entities import account, change, changes

NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files_in(folder: Path) -> dict[str, int]:
    """Return the names of the files and who may use them."""
    return {path.name: mode(path) for path in folder.iterdir()}


@contextlib.contextmanager
def folder_without_rights() -> Iterator[Path]:
    """Make a folder where we may not write; the superuser, whom no permission stops, is somebody else meanwhile."""
    us = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        if us == 0:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(us)
            folder.chmod(0o755)


async def test_what_it_makes_is_its_owners_alone(tmp_path: Path) -> None:
    """The folder and every file in it are closed to others, whatever the umask."""
    data_dir = tmp_path / "made" / "data"
    umask = os.umask(0)
    try:
        async with EmbeddedStore.open(data_dir) as store:
            await store.accounts.add([account("alice")])
            assert mode(data_dir) == 0o700
            assert files_in(data_dir) == {FILE_NAME: 0o600, f"{FILE_NAME}-shm": 0o600, f"{FILE_NAME}-wal": 0o600}
    finally:
        os.umask(umask)


async def test_closing_leaves_one_file(tmp_path: Path) -> None:
    """After a clean end there is no journal left: copying the file is a backup."""
    async with EmbeddedStore.open(tmp_path) as store:
        await store.accounts.add([account("alice")])
    assert files_in(tmp_path) == {FILE_NAME: 0o600}
    assert query(tmp_path, "SELECT username FROM accounts") == [("alice",)]


async def test_acknowledged_means_on_the_disk(tmp_path: Path) -> None:
    """The writer commits to a write-ahead log with an fsync for every commit."""
    async with Database(tmp_path / FILE_NAME) as opened:
        assert await opened.write(lambda one: one.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
        assert await opened.write(lambda one: one.execute("PRAGMA synchronous").fetchone()) == (2,)


async def test_readers_cannot_write(tmp_path: Path) -> None:
    """A statement that writes is refused on a reader's connection: there is one writer."""
    async with Database(tmp_path / FILE_NAME) as opened:
        with pytest.raises(CompanionError, match="readonly"):
            await opened.read(lambda one: one.execute("DELETE FROM accounts"))


async def test_an_empty_file_is_a_new_store(tmp_path: Path) -> None:
    """A file that was only made, such as by a start that was interrupted at once, is filled."""
    (tmp_path / FILE_NAME).touch()
    async with EmbeddedStore.open(tmp_path) as store:
        assert await store.troubles() == {"sqlite": None}


async def test_a_folder_without_rights(tmp_path: Path) -> None:
    """A folder where nobody may write is named, with the reason."""
    async with EmbeddedStore.open(tmp_path / "rehearsal"):
        pass  # so that nothing is imported without the rights to
    with folder_without_rights() as folder:
        message = await refused(folder, Permanent)
        deeper = await refused(folder / "below", Permanent)
    assert message == f"embedded store: {folder / FILE_NAME}: Permission denied"
    assert deeper == f"embedded store: {folder / 'below'}: Permission denied"


async def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    """A path that is a file, leads through one, or whose file is a folder, is named, with the reason."""
    file = tmp_path / "file"
    file.touch()
    assert await refused(file, Permanent) == f"embedded store: {file}: not a folder"
    assert await refused(file / "x", Permanent) == f"embedded store: {file / 'x'}: Not a directory"
    (tmp_path / FILE_NAME).mkdir()
    assert await refused(tmp_path, Permanent) == f"embedded store: {tmp_path / FILE_NAME}: Is a directory"


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """Another file under the same name is refused for good, and stays as it is."""
    (tmp_path / FILE_NAME).write_bytes(b"a letter to grandmother\n" * 100)
    assert "not a database" in await refused(tmp_path, Permanent)
    assert (tmp_path / FILE_NAME).read_bytes() == b"a letter to grandmother\n" * 100


async def test_a_damaged_file(tmp_path: Path) -> None:
    """Pages that hold nonsense are an error that no repetition heals, for the call that needs them."""
    async with EmbeddedStore.open(tmp_path) as store:
        await store.inbox.append(changes("e", 500, after={"text": "x" * 500}))
    file = tmp_path / FILE_NAME
    content = bytearray(file.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 40 * 4096] = b"\xff" * (40 * 4096)
    file.write_bytes(content)
    async with EmbeddedStore.open(tmp_path) as store:
        with pytest.raises(Permanent, match="malformed"):
            await store.inbox.read(0, 1000)


async def test_a_table_that_is_gone(tmp_path: Path) -> None:
    """Whoever pulls the schema from under a running store gets an error of ours from it, and it says so itself."""
    async with EmbeddedStore.open(tmp_path) as store:
        assert await store.troubles() == {"sqlite": None}
        query(tmp_path, "DROP TABLE generation")
        with pytest.raises(Permanent, match="no such table"):
            await store.notices.announce(Notice(Scope.RULES))
        assert "no such table" in str((await store.troubles())["sqlite"])
        await store.inbox.append([change("e1")])


async def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """Without room a write ends as transient and leaves nothing; what was there is served, and with room it goes on."""

    def room(pages: int) -> Callable[[sqlite3.Connection], object]:
        return lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    async with Database(tmp_path / FILE_NAME) as opened:
        store = EmbeddedStore(opened)
        await store.inbox.append(changes("before", 10))
        await opened.write(room(1))  # SQLite takes the present size for less
        large = changes("large", 50, after={"text": "x" * 5000})
        writing = [store.inbox.append(large), *(store.inbox.append([one]) for one in changes("small", 3))]
        first, *others = await asyncio.gather(*writing, return_exceptions=True)
        assert isinstance(first, Transient)
        assert "full" in str(first)
        kept = {item.change.event_id for item in await store.inbox.read(0, 1000)}
        taken = {f"small-{number}" for number, outcome in enumerate(others) if not isinstance(outcome, Transient)}
        assert kept == {one.event_id for one in changes("before", 10)} | taken
        await opened.write(room(1_000_000))
        assert (await store.inbox.append(large)).accepted == 50
