"""What an archive holds: zstd over JSON lines. How it is read, some lines at a time or from end to end to compare it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import zstandard

from companion.core.errors import Permanent
from maintenance.archive.manifest import Manifest

LEVEL: Final = 1
"""Audit records come out as small as at level 3, in two thirds of the time."""

_CHUNK: Final = 1 << 20
_MAX_LINE: Final = 64 << 20


@dataclass(slots=True)
class Digests:
    """Two digests that grow: of the lines, and of the file."""

    content: Any = field(default_factory=hashlib.sha256)
    file: Any = field(default_factory=hashlib.sha256)


class Contents(NamedTuple):
    """What was found in an archive; the same four that its manifest names. None for what was not counted."""

    documents: int | None
    size: int
    sha256: str
    content_sha256: str

    def check(self, manifest: Manifest, where: str) -> None:
        """Raise `Permanent` for the first that is not as the manifest says."""
        for what, is_now, was in (
            ("documents", self.documents, manifest.count),
            ("bytes", self.size, manifest.size),
            ("digest of the file", self.sha256, manifest.sha256),
            ("digest of the content", self.content_sha256, manifest.content_sha256),
        ):
            if is_now is not None and is_now != was:
                raise Permanent(f"{where}: the {what} should be {was}, found {is_now}")


class _Hashed:
    """A file that tells what is read from it."""

    def __init__(self, file: Any, digests: Digests) -> None:  # noqa: ANN401 - a file, or what reads like one
        self._file = file
        self._digests = digests
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        """Read and tell."""
        raw: bytes = self._file.read(size)
        self._digests.file.update(raw)
        self.bytes += len(raw)
        return raw


def contents_of(file: Any, *, counted: bool = True) -> Contents:  # noqa: ANN401 - likewise
    """Read an archive to its end. Raises `zstandard.ZstdError` for what cannot be read."""
    digests, count = Digests(), 0
    hashed = _Hashed(file, digests)
    for chunk in _chunks(hashed):
        digests.content.update(chunk)
        if counted:
            count += chunk.count(b"\n")
    while hashed.read(_CHUNK):
        pass
    return Contents(count if counted else None, hashed.bytes, digests.file.hexdigest(), digests.content.hexdigest())


class Following:
    """Reads a file back, in a thread of its own, while it is written: each piece once it is synced."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("rb", buffering=0)
        self._news = threading.Condition()
        self._written = self._synced = self._read = 0
        self._ended = self._stopped = False
        self._found: Contents | None = None
        self._problem: Exception | None = None
        # Whoever forgets it is not kept from ending.
        self._thread = threading.Thread(target=self._work, name="archive-reader", daemon=True)
        self._thread.start()

    def until(self, size: int) -> None:
        """Let so many bytes of the file be synced and read; they are written."""
        with self._news:
            self._written = size
            self._news.notify()

    def contents(self, size: int) -> Contents:
        """Return what was found in the whole file, which is of this size. Raises `OSError`, `zstandard.ZstdError`."""
        with self._news:
            self._written, self._ended = size, True
            self._news.notify()
        self._thread.join()
        if self._found is None:
            raise self._problem or OSError("nobody waits for it any more")
        return self._found

    def stop(self) -> None:
        """Read no more."""
        with self._news:
            self._stopped = True
            self._news.notify()
        self._thread.join()
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes of what is written, as soon as there are some; none at the end."""
        with self._news:
            while self._written == self._read and not self._ended and not self._stopped:
                self._news.wait()
            ahead = 0 if self._stopped else self._written - self._read
        if self._read + ahead > self._synced:
            os.fsync(self._file.fileno())
            self._synced = self._read + ahead
        # Behind the end whatever is there is read too, and then found to be too much.
        raw = self._file.read(min(ahead, size) if ahead or not self._ended else size)
        self._read += len(raw)
        return raw

    def _work(self) -> None:
        try:
            # The digest says that these are the lines that were counted when written; counting keeps the interpreter from others.
            self._found = contents_of(self, counted=False)
        except Exception as problem:  # noqa: BLE001 - it is raised where somebody waits for what was found
            self._problem = problem


def read_lines(file: Any, limit: int, after: int) -> Iterator[bytes]:  # noqa: ANN401 - a file, or what reads like one
    """Yield lines, some at a time; raises `zstandard.ZstdError` for what is cut off."""
    parts: list[bytes] = []
    held, end = 0, b"\n"
    for chunk in _chunks(file):
        rest = chunk
        while (ends := rest.count(b"\n")) >= (wanted := after or limit - held):
            here = rest
            rest = rest.split(b"\n", wanted).pop()
            if not after:
                yield b"".join((*parts, here[: len(here) - len(rest)]))
            parts, held, after = [], 0, 0
        if after:
            after -= ends
        elif rest:
            parts.append(rest)
            held += ends
            if not held and sum(map(len, parts)) > _MAX_LINE:
                raise zstandard.ZstdError("a line without end")
        end = chunk[-1:] or end
    if end != b"\n":
        raise zstandard.ZstdError("the last line is cut off")
    if parts:
        yield b"".join(parts)


def _chunks(file: Any) -> Iterator[bytes]:  # noqa: ANN401 - likewise
    return zstandard.ZstdDecompressor().read_to_iter(file, read_size=_CHUNK, write_size=_CHUNK)
