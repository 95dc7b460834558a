"""The embedded store where it is SQLite: files, locks, migrations, faults of the disk and of other processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from companion.core.errors import CompanionError, Permanent, Transient
from companion.core.model import Notice, Scope
from companion.core.stats import Counting
from companion.stores.embedded import EmbeddedStore, database, migrations
from companion.stores.embedded.database import Database
from companion.stores.embedded.store import FILE_NAME
from tests.support.entities import account, audit, change, changes
from tests.support.programs import program

NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files_in(folder: Path) -> dict[str, int]:
    """Return the names of the files and who may use them."""
    return {path.name: mode(path) for path in folder.iterdir()}


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


# Files


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


# Migrations


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """What a newer release wrote is left alone, and one line says what to do."""
    async with EmbeddedStore.open(tmp_path) as store:
        await store.accounts.add([account("alice")])
    query(tmp_path, "PRAGMA user_version = 99")
    assert await refused(tmp_path, Permanent) == (
        f"the data was written by a newer release (schema 99; this one knows {len(migrations.MIGRATIONS)}): upgrade this one"
    )
    assert query(tmp_path, "PRAGMA user_version") == [(99,)]
    assert query(tmp_path, "SELECT username FROM accounts") == [("alice",)]


async def test_a_newer_release_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of an older schema is migrated by the steps that it lacks, and kept."""
    async with EmbeddedStore.open(tmp_path) as store:
        await store.accounts.add([account("alice")])
    steps = (*migrations.MIGRATIONS, ("CREATE TABLE novelty (x INTEGER)", "INSERT INTO novelty VALUES (1)"))
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    for _ in range(2):
        async with EmbeddedStore.open(tmp_path) as store:
            assert await store.accounts.get("alice") == account("alice")
    assert query(tmp_path, "SELECT x FROM novelty") == [(1,)]
    assert query(tmp_path, "PRAGMA user_version") == [(len(steps),)]


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is taken as a whole or not at all, and the next start can try again."""
    async with EmbeddedStore.open(tmp_path):
        pass
    broken = (*migrations.MIGRATIONS, ("CREATE TABLE novelty (x INTEGER)", "INSERT INTO nowhere VALUES (1)"))
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "MIGRATIONS", broken)
        assert "nowhere" in await refused(tmp_path, Permanent)
    async with EmbeddedStore.open(tmp_path) as store:
        assert await store.troubles() == {"sqlite": None}
    assert query(tmp_path, "SELECT count(*) FROM sqlite_schema WHERE name = 'novelty'") == [(0,)]


OPENER = """
import asyncio, sys, time
from pathlib import Path
from companion.core.model import Account, Kind
from companion.stores.embedded import EmbeddedStore

async def main():
    for line in sys.stdin:
        moment, path = line.strip().split(" ", 1)
        while time.monotonic() < float(moment):
            pass
        async with EmbeddedStore.open(Path(path)) as store:
            await store.accounts.add([Account(sys.argv[1], Kind.DEVICE, "p", "hash")])
        print("opened", flush=True)

print("ready", flush=True)
asyncio.run(main())
"""


async def test_processes_that_start_together(tmp_path: Path) -> None:
    """Of several processes that open new data at the same moment each gets a store, and the schema is made once."""
    names = [f"process{number}" for number in range(4)]
    async with contextlib.AsyncExitStack() as stack:
        openers = [await stack.enter_async_context(program(OPENER, name)) for name in names]
        assert [await opener.line() for opener in openers] == ["ready"] * 4
        for number in range(20):
            data_dir = tmp_path / str(number)
            moment = time.monotonic() + 0.01  # one clock for all processes of a machine
            for opener in openers:
                opener.say(f"{moment} {data_dir}")
            assert [await opener.line() for opener in openers] == ["opened"] * 4
            assert query(data_dir, "SELECT value FROM generation") == [(5,)]
            assert query(data_dir, "SELECT username FROM accounts") == [(name,) for name in names]
        assert [await opener.ended() for opener in openers] == [0] * 4


# Other processes and dying


async def test_new_data_that_another_process_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening waits for a lock on new data as long as for any other, and then says that it is locked."""
    monkeypatch.setattr(database, "_BUSY_MS", 50)
    async with program(LOCKER, str(tmp_path / FILE_NAME)) as locker:
        assert await locker.line() == "locked"
        assert await refused(tmp_path, Transient) == "embedded store: database is locked"
        locker.say("enough")
        assert await locker.line() == "free"
    async with EmbeddedStore.open(tmp_path) as store:
        assert await store.troubles() == {"sqlite": None}


LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
print("free", flush=True)
"""


async def test_a_lock_that_another_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the lock, writing and opening end as transient, reading goes on; then all is well."""
    monkeypatch.setattr(database, "_BUSY_MS", 50)
    async with EmbeddedStore.open(tmp_path) as store:
        await store.accounts.add([account("alice")])
        async with program(LOCKER, str(tmp_path / FILE_NAME)) as locker:
            assert await locker.line() == "locked"
            outcomes = await asyncio.gather(
                *(store.inbox.append([one]) for one in changes("e", 3)), return_exceptions=True
            )
            assert [type(outcome) for outcome in outcomes] == [Transient] * 3
            assert "locked" in await refused(tmp_path, Transient)
            assert await store.accounts.get("alice") == account("alice")
            locker.say("enough")
            assert await locker.line() == "free"
        assert await store.inbox.backlog(0) == 0
        await store.inbox.append([change("e1")])
        assert await store.inbox.backlog(0) == 1


WRITER = """
import asyncio, sys
from pathlib import Path
from companion.core.model import Change, ChangeOp
from companion.stores.embedded import EmbeddedStore

async def write(store, name):
    number = 0
    while True:
        batch = [Change(f"{name}/{number}/{i}", ChangeOp.UPDATE, "db", "c", "id", 1, None, {"x": "y" * 200}) for i in range(3)]
        await store.inbox.append(batch)
        print(f"{name}/{number}", flush=True)
        number += 1

async def main():
    async with EmbeddedStore.open(Path(sys.argv[1])) as store:
        await asyncio.gather(*(write(store, name) for name in "abcdefgh"))

asyncio.run(main())
"""


async def test_a_writer_that_is_killed(tmp_path: Path) -> None:
    """After `kill -9` in the middle of writing everything acknowledged is there, and every batch whole or not at all."""
    acknowledged: set[str] = set()
    for _ in range(3):
        async with program(WRITER, str(tmp_path)) as writer:
            acknowledged |= {await writer.line() for _ in range(100)}
            writer.kill()
            acknowledged |= set(await writer.rest())
        async with EmbeddedStore.open(tmp_path) as store:
            found = {item.change.event_id for item in await store.inbox.read(0, 1_000_000)}
        batches = {event_id.rpartition("/")[0] for event_id in found}
        assert acknowledged <= batches
        assert found == {f"{batch}/{number}" for batch in batches for number in range(3)}
        assert query(tmp_path, "PRAGMA integrity_check") == [("ok",)]


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


# The writer


class Gate:
    """A job that keeps the writer busy until it is opened, so that what is asked meanwhile comes as one group."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def job(self, _connection: sqlite3.Connection) -> None:
        self._reached.set()
        assert self._open.wait(20)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 20)

    def open(self) -> None:
        self._open.set()


async def test_too_many_waiting_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue of the writer is bounded: whoever comes when it is full is told at once, and those in it are served."""
    monkeypatch.setattr(database, "_WAITING", 3)
    gate = Gate()
    async with Database(tmp_path / FILE_NAME) as opened:
        busy = asyncio.ensure_future(opened.write(gate.job))
        await gate.reached()
        waiting = [asyncio.ensure_future(opened.write(lambda _: "served")) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Transient, match="more than 3 writes are waiting"):
            await opened.write(lambda _: "too many")
        gate.open()
        assert await asyncio.gather(busy, *waiting) == [None, "served", "served", "served"]


@pytest.mark.parametrize("statement", ["ROLLBACK", "RELEASE job"])
async def test_a_group_is_told_only_after_its_commit(tmp_path: Path, statement: str) -> None:
    """When the transaction of a group is lost or torn, nobody in it is told of success, also whose own statement had worked."""
    gate = Gate()
    async with Database(tmp_path / FILE_NAME) as opened:
        store = EmbeddedStore(opened)
        busy = asyncio.ensure_future(opened.write(gate.job))
        await gate.reached()
        adding = asyncio.ensure_future(store.accounts.add([account("alice")]))
        await asyncio.sleep(0)
        losing = asyncio.ensure_future(opened.write(lambda connection: connection.execute(statement)))
        await asyncio.sleep(0)
        gate.open()
        outcomes = await asyncio.gather(busy, adding, losing, return_exceptions=True)
        assert isinstance(outcomes[1], CompanionError)
        assert isinstance(outcomes[2], CompanionError)
        assert await store.accounts.get("alice") is None
        await store.accounts.add([account("alice")])


async def test_a_job_that_loses_the_transaction_and_fails(tmp_path: Path) -> None:
    """A job that fails after its transaction is gone cannot be undone alone: all of its group are told."""

    def lose(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")
        raise ValueError("lost")

    gate = Gate()
    async with Database(tmp_path / FILE_NAME) as opened:
        store = EmbeddedStore(opened)
        busy = asyncio.ensure_future(opened.write(gate.job))
        await gate.reached()
        adding = asyncio.ensure_future(store.audits.append([audit()]))
        await asyncio.sleep(0)
        losing = asyncio.ensure_future(opened.write(lose))
        await asyncio.sleep(0)
        gate.open()
        outcomes = await asyncio.gather(busy, adding, losing, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[1:]] == [ValueError, ValueError]
        assert list(await store.audits.latest(1)) == []


async def test_an_abandoned_group(tmp_path: Path) -> None:
    """Jobs whose callers have all gone are done all the same, and the writer goes on."""
    gate = Gate()
    async with Database(tmp_path / FILE_NAME) as opened:
        store = EmbeddedStore(opened)
        busy = asyncio.ensure_future(opened.write(gate.job))
        await gate.reached()
        adding = [asyncio.ensure_future(store.inbox.append([one])) for one in changes("e", 3)]
        await asyncio.sleep(0)
        for task in adding:
            task.cancel()
        gate.open()
        await busy
        assert (await store.inbox.append([change("last")])).accepted == 1
        assert await store.inbox.backlog(0) == 4


async def test_closing_behind_a_long_queue(tmp_path: Path) -> None:
    """What was asked before the end is written before the end."""
    async with EmbeddedStore.open(tmp_path) as store:
        adding = [asyncio.ensure_future(store.inbox.append([one])) for one in changes("e", 1500)]
        await asyncio.sleep(0)
    assert sum(taken.accepted for taken in await asyncio.gather(*adding)) == 1500
    assert query(tmp_path, "SELECT count(*) FROM inbox") == [(1500,)]


async def test_audit_records_of_an_earlier_release(tmp_path: Path) -> None:
    """They are there after the upgrade that numbers them for good, and the next ones follow on them."""
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    for step in migrations.MIGRATIONS[:3]:
        for statement in step:
            connection.execute(statement)
    columns = "at, kind, verdict, reason, username, client_id, peer_host, action, topic, rule, detail"
    for number in (1, 2):
        values = (number, "auth", "deny", "no_rule", "u", "", "", "", "", "", "")
        connection.execute(f"INSERT INTO audits ({columns}) VALUES ({', '.join('?' * 11)})", values)  # noqa: S608 - ours
    connection.execute("PRAGMA user_version = 3")
    connection.commit()
    connection.close()
    async with EmbeddedStore.open(tmp_path) as store:
        await store.audits.append([audit(3)])
        assert [one.at for one in await store.audits.latest(10)] == [3, 2, 1]
        source = store.observed(Counting(decisions=True))[1]
        assert [one.position for one in await source.read(10)] == ["1", "2", "3"]


async def test_opened_twice_in_one_process(tmp_path: Path) -> None:
    """Another process that comes and goes takes nothing from two stores of one process: each still sees what others write."""
    source = (
        "import asyncio, sys; from pathlib import Path; from companion.stores.embedded import EmbeddedStore\n"
        "async def main():\n"
        "    async with EmbeddedStore.open(Path(sys.argv[1])) as store:\n"
        "        await store.checkpoints.save('place', sys.argv[2], int(sys.argv[2]))\n"
        "asyncio.run(main())"
    )
    async with EmbeddedStore.open(tmp_path) as first, EmbeddedStore.open(tmp_path) as second:
        for number in ("1", "2"):
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", source, str(tmp_path), number)
            assert await process.wait() == 0
            assert await first.checkpoints.load("place") == number
            assert await second.checkpoints.load("place") == number
