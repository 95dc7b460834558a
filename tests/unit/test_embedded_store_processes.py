"""The embedded store between processes: those that start together, hold its lock, or are killed."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path

import pytest

from companion.core.errors import Transient
from companion.stores.embedded import EmbeddedStore, database
from companion.stores.embedded.store import FILE_NAME
from tests.support.embedded_store import query, refused
from tests.support.entities import account, change, changes
from tests.support.programs import program

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


LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
print("free", flush=True)
"""


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
