"""The one writer of the embedded store: its queue, and groups that share a transaction."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from companion.core.errors import CompanionError, Transient
from companion.stores.embedded import EmbeddedStore, database
from companion.stores.embedded.database import Database
from companion.stores.embedded.store import FILE_NAME
from tests.support.embedded_store import query
from tests.support.entities import account, audit, change, changes


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
