"""Audit records on the disk, for as long as the store is away.

    records ──▶ a file of this process, synced batch by batch ──▶ later, in order, to the store ──▶ the file goes

One line per entry (JSON), in a file that its process keeps locked (flock). After a `kill -9` the lock is gone and the file is
there: whichever process of this data folder comes next delivers it. What was delivered already is delivered again then, which the
store knows by the entries' ids. Every batch is synced (fsync) before it counts as kept; of what a killed process was just writing
the last line may be torn, and is left out. Nothing here is fast enough for an event loop: call it in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import structlog

from companion.core.chain import Entry

log = structlog.get_logger("companion.spool")

FOLDER: Final = "spool"
"""Where spools lie in the data folder."""

_SUFFIX: Final = ".spool"
_ENTRY: Final = msgspec.json.Decoder(Entry)


class Spool:
    """What one process keeps in `folder`, at most `most` bytes of it."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most
        self._file: _File | None = None
        # A thread that nobody waits for any more may still be at work.
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many entries are kept and not delivered."""
        return 0 if self._file is None else self._file.waiting

    def keep(self, entries: Sequence[Entry]) -> bool:
        """Keep entries durably, all or none; False when there is no room. Raises `OSError` for a disk that does not take them."""
        with self._lock:
            if self._file is None:
                self._file = _File.make(self._folder)
            return self._file.append(entries, self._most)

    def next(self, limit: int) -> Sequence[Entry]:
        """Return up to `limit` of those that wait longest."""
        with self._lock:
            return [] if self._file is None else self._file.next(limit)

    def delivered(self, count: int) -> None:
        """Note that so many of those are in the store; when nothing waits any more the file goes."""
        with self._lock:
            if self._file is not None:
                self._file.forward(count)
                if not self._file.waiting:
                    self._file.remove()
                    self._file = None

    def close(self) -> None:
        """Let go of the file; what waits in it is for the next process."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def abandoned(self) -> Generator[Spool, None, None]:
        """Yield, each as a spool of its own, the files whose processes are gone; one that is not emptied stays for later."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            file = _File.take_over(path)
            if file is None:
                continue
            spool = Spool(self._folder, 0)
            spool._file = file
            try:
                if file.waiting:
                    yield spool
                else:
                    file.remove()
                    spool._file = None
            finally:
                spool.close()


class _File:
    """An open file under our lock."""

    def __init__(self, path: Path, file: BinaryIO, lines: int = 0) -> None:
        self._path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._offset = 0
        self._ahead: list[tuple[int, Entry]] = []
        self.waiting = lines

    @classmethod
    def make(cls, folder: Path) -> _File:
        """Make a new one; it has its name only once it is locked."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"audits-{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        temporary = path.with_suffix(".tmp")
        file = os.fdopen(
            os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600), "r+b", buffering=0
        )
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            temporary.rename(path)
            _sync_folder(folder)
        except BaseException:
            file.close()
            temporary.unlink(missing_ok=True)
            raise
        return cls(path, file)

    @classmethod
    def take_over(cls, path: Path) -> _File | None:
        """Open one whose process is gone; None when it is not, or somebody else was quicker."""
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(path.open("r+b", buffering=0))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return None
            if not os.fstat(file.fileno()).st_nlink:
                return None
            stack.pop_all()
        lines = sum(1 for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n"))
        return cls(path, file, lines)

    def append(self, entries: Sequence[Entry], most: int) -> bool:
        text = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
        if self._size + len(text) > most:
            return False
        try:
            left = memoryview(text)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except BaseException:
            # Half a batch must not stand before the next one.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), self._size)
            raise
        self._size += len(text)
        self.waiting += len(entries)
        return True

    def next(self, limit: int) -> Sequence[Entry]:
        while len(self._ahead) < limit and self._fill():
            pass
        return [entry for _, entry in self._ahead[:limit]]

    def _fill(self) -> bool:
        """Read on; False at the end."""
        at = self._ahead[-1][0] if self._ahead else self._offset
        block = os.pread(self._file.fileno(), _BLOCK, at)
        *lines, _rest = block.split(b"\n")
        for line in lines:
            at += len(line) + 1
            try:
                self._ahead.append((at, _ENTRY.decode(line)))
            except msgspec.MsgspecError:
                log.error("a line of a spool cannot be read: its record is lost", file=self._path.name, end=at)
                self.waiting -= 1
                if not self._ahead:
                    self._offset = at
        return bool(lines)

    def forward(self, count: int) -> None:
        self._offset = self._ahead[count - 1][0] if count else self._offset
        del self._ahead[:count]
        self.waiting -= count

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()

    def close(self) -> None:
        self._file.close()


_BLOCK: Final = 4 * 1024 * 1024
"""Much more than the longest entry."""


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
