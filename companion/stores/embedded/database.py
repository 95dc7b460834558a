"""One SQLite file: one writer thread that commits in groups, a few reader threads, errors mapped to ours.

A commit costs an fsync, so the writer takes everything that waits, runs each job in a savepoint of its own and commits once; the
callers learn of their results only after that commit. What is acknowledged is on the disk (WAL, `synchronous = FULL`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from companion.core.errors import Permanent, Transient
from companion.stores.embedded.looks import CLOSING, Job, Looks
from companion.stores.embedded.migrations import migrate
from companion.stores.embedded.problems import translated

T = TypeVar("T")

_GROUP: Final = 512
_WAITING: Final = 10_000
_READERS: Final = 4
_BUSY_MS: Final = 5_000


def _connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    # check_same_thread: each connection stays in one thread; only closing happens in another, after that thread has ended.
    connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_MS / 1000, check_same_thread=False)
    try:
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if readonly:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log; of several processes that do so at once SQLite refuses all but one without waiting."""
    deadline = time.monotonic() + _BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as problem:
            if problem.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.001, 0.02))  # noqa: S311 - spreads attempts, protects nothing
        else:
            return


class Database:
    """An open file. Use it as an async context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._jobs: queue.Queue[tuple[Job[Any], Future[Any]] | None] = queue.Queue(_WAITING)
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._writer: threading.Thread | None = None
        self._closing = False
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="sqlite-reader")
        self._scanner = ThreadPoolExecutor(1, thread_name_prefix="sqlite-scanner")
        self._looks = Looks(self._begin)

    async def __aenter__(self) -> Self:
        """Create or migrate the file and start the threads; raises `Transient` or `Permanent` when it cannot be used."""
        connection = await asyncio.to_thread(self._prepare)
        self._opened.append(connection)
        self._writer = threading.Thread(target=self._write_loop, args=(connection,), name="sqlite-writer", daemon=True)
        self._writer.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what was asked for, then close."""
        self._closing = True
        await asyncio.to_thread(self._close)

    async def write(self, job: Job[T]) -> T:
        """Run `job` in the writer's transaction and return its result once it is committed.

        An exception of the job undoes only that job. Raises `Transient` when too many jobs wait already.
        """
        if self._closing:
            raise Transient(CLOSING)
        future: Future[T] = Future()
        try:
            self._jobs.put_nowait((job, future))
        except queue.Full:
            raise Transient(f"embedded store: more than {_WAITING} writes are waiting") from None
        return await asyncio.wrap_future(future)

    async def read(self, job: Job[T]) -> T:
        """Run `job` on a reader's connection and return its result."""
        if self._closing:
            raise Transient(CLOSING)
        return await self._begin(job)

    async def scan(self, job: Job[T]) -> T:
        """Do the same for a job that is a step through much: always in the same thread, so that none of the readers is kept busy.

        Taken up by one thread after the other, such steps take a third longer.
        """
        if self._closing:
            raise Transient(CLOSING)
        return await asyncio.get_running_loop().run_in_executor(self._scanner, self._read, job)

    async def look(self, job: Job[T]) -> T:
        """Do the same for a job that takes microseconds, together with others that are asked for at the same moment."""
        if self._closing:
            raise Transient(CLOSING)
        return await self._looks.look(job)

    def _begin(self, job: Job[T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._readers, self._read, job)

    def _prepare(self) -> sqlite3.Connection:
        with translated():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._make_file()
            except OSError as problem:
                reason = "not a folder" if isinstance(problem, FileExistsError) else problem.strerror
                raise Permanent(f"embedded store: {problem.filename}: {reason}") from problem
            connection = _connect(self.path, readonly=False)
            try:
                migrate(connection)
            except BaseException:
                connection.close()
                raise
            return connection

    def _make_file(self) -> None:
        """Make the file where it is missing: it holds password hashes, and is its owner's alone, whatever the umask.

        One that is there is not opened here: to close it again would drop every lock that this process has on it (POSIX), and
        another process, when it ends, would take itself for the last one and remove the log that we still write to.
        """
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path)) from None

    def _read(self, job: Job[T]) -> T:
        with translated():
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = _connect(self.path, readonly=True)
                self._opened.append(connection)
            return job(connection)

    def _write_loop(self, connection: sqlite3.Connection) -> None:
        running = True
        while running:
            group = [self._jobs.get()]
            while len(group) < _GROUP:
                try:
                    group.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            running = None not in group
            self._write_group(connection, [entry for entry in group if entry is not None])

    def _write_group(self, connection: sqlite3.Connection, group: list[tuple[Job[Any], Future[Any]]]) -> None:
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with translated():
                connection.execute("BEGIN IMMEDIATE")
                for job, future in group:
                    outcomes.append((future, *_run(connection, job)))
                connection.execute("COMMIT")
        except Exception as problem:  # noqa: BLE001 - whatever ended the group is told to every one who waits for it
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            outcomes = [(future, None, problem) for _, future in group]
        for future, result, error in outcomes:
            if not future.set_running_or_notify_cancel():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    def _close(self) -> None:
        if self._writer is not None:
            self._jobs.put(None)
            self._writer.join()
        self._readers.shutdown()
        self._scanner.shutdown()
        for connection in self._opened:
            connection.close()
        self._opened.clear()


def removing(table: str, key: str, due: str, values: Sequence[Any], *, dry: bool) -> Job[int]:
    """Return the job that removes the rows of `table` whose `key` the query `due` selects, and tells how many."""

    def job(connection: sqlite3.Connection) -> int:
        if dry:
            (count,) = connection.execute(f"SELECT count(*) FROM ({due})", values).fetchone()
            return int(count)
        return connection.execute(f"DELETE FROM {table} WHERE {key} IN ({due})", values).rowcount

    return job


def _run(connection: sqlite3.Connection, job: Job[Any]) -> tuple[Any, BaseException | None]:
    connection.execute("SAVEPOINT job")
    try:
        with translated():
            result = job(connection)
    except Exception as problem:
        if not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
        return None, problem
    connection.execute("RELEASE job")
    return result, None
