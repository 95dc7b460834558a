"""Archives in a folder: `{policy}/{run}+{fence}.jsonl.zst`, zstd over JSON lines, and beside it the manifest, `.json`.

A file is written under a temporary name, synced, read back and compared, and only then given its name; then the manifest in the
same way. A large file is synced and read back piece by piece, while what follows is written. An archive is one that has a
manifest: whatever else lies there, a crash left behind, and the next life of the same run begins anew. The fence is part of the
name, so that a life that was paused past its lease spoils nothing of the next one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import zstandard

from companion.core.errors import Invalid, Permanent, Transient
from companion.core.ports import Batch
from maintenance.archive.contents import LEVEL, Digests, Following, contents_of, read_lines
from maintenance.archive.manifest import Manifest, file_of, read_manifest

_PIECE: Final = 16 << 20
"""So many bytes of lines are read back at once, while what follows is written."""

_DATA: Final = ".jsonl.zst"
_MANIFEST: Final = ".json"
_PART: Final = ".part"
_MODE: Final = 0o600


class Folder:
    """The archives of a folder. Every method takes its time: call it in a thread."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def begin(self, policy: str, run: str, fence: int) -> Writing:
        """Begin an archive, in place of what earlier lives of this run left unfinished."""
        folder = self._root / policy
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in folder.iterdir():
                if left.name.startswith(f"{run}+") and left.name.endswith(_PART):
                    left.unlink(missing_ok=True)
            return Writing(folder / f"{file_of(run, fence)}{_DATA}")
        except OSError as problem:
            raise _trouble(folder, problem) from None

    def find(self, policy: str, run: str) -> Manifest | None:
        """Return the manifest of the archive of a run; None when there is none."""
        found = [one for one in self.list(policy) if one.run == run]
        return max(found, key=lambda one: one.fence, default=None)

    def list(self, policy: str = "*") -> Sequence[Manifest]:
        """Return the manifests of all archives, or of those of one policy, oldest first."""
        found = []
        try:
            for path in self._root.glob(f"{policy}/*{_MANIFEST}"):
                name = f"{path.parent.name}/{path.name.removesuffix(_MANIFEST)}"
                found.append(read_manifest(path.read_bytes(), name))
        except OSError as problem:
            raise _trouble(self._root, problem) from None
        return sorted(found, key=lambda one: (one.written_at, one.name))

    def lines(self, manifest: Manifest, limit: int, after: int = 0) -> Iterator[bytes]:
        """Yield the lines behind the first `after`, up to `limit` of them at a time, each with its end."""
        path = self._root / manifest.policy / f"{manifest.file}{_DATA}"
        try:
            with path.open("rb") as file:
                yield from read_lines(file, limit, after)
        except OSError as problem:
            raise _trouble(path, problem) from None
        except zstandard.ZstdError as problem:
            raise Permanent(f"{path}: it cannot be read ({problem})") from None

    def verify(self, manifest: Manifest) -> None:
        """Read the archive from end to end. Raises `Permanent` that says in one line in what it differs from its manifest."""
        path = self._root / manifest.policy / f"{manifest.file}{_DATA}"
        _compare(path, manifest)


class Writing:
    """An archive that is being written."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._part = path.with_name(path.name + _PART)
        self._digests = Digests()
        self._bytes = 0
        self._first = self._last = ""
        self._file = os.fdopen(os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE), "wb")
        # What reads like a file is one to zstandard, whatever its types say.
        tee: Any = _Tee(self._file, self._wrote)
        self._zstd: Any = zstandard.ZstdCompressor(level=LEVEL).stream_writer(tee, closefd=False)
        self._piece = 0
        self._following: Following | None = None

    def _wrote(self, raw: bytes) -> None:
        self._digests.file.update(raw)
        self._bytes += len(raw)

    def add(self, batch: Batch) -> None:
        """Write documents, one a line."""
        self._digests.content.update(batch.lines)
        try:
            self._zstd.write(batch.lines)
            self._piece += len(batch.lines)
            if self._piece >= _PIECE:
                self._read_back()
        except OSError as problem:
            raise _trouble(self._part, problem) from None
        self._first = self._first or batch.first
        self._last = batch.last
        self.count += batch.count

    def _read_back(self) -> None:
        self._piece = 0
        self._zstd.flush(zstandard.FLUSH_BLOCK)
        self._file.flush()
        self._following = self._following or Following(self._part)
        self._following.until(self._bytes)

    def finish(self, *, policy: str, run: str, fence: int, collection: str, before: int, now: int) -> Manifest:
        """Sync the file, read it back, give it its name and its manifest. Raises `Permanent` when it is not what was written."""
        try:
            self._zstd.close()
            _sync(self._file)
            self._file.close()
            manifest = Manifest(
                policy,
                run,
                fence,
                collection,
                self.count,
                self._first,
                self._last,
                self._bytes,
                self._digests.file.hexdigest(),
                self._digests.content.hexdigest(),
                before,
                now,
            )
            _compare(self._part, manifest, self._following)
            self._part.replace(self._path)
            text = self._path.with_name(f"{manifest.file}{_MANIFEST}")
            part = text.with_name(text.name + _PART)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE), "wb") as file:
                file.write(manifest.text())
                _sync(file)
            part.replace(text)
            _sync_folder(self._path.parent)
        except OSError as problem:
            raise _trouble(self._path, problem) from None
        return manifest

    def abandon(self) -> None:
        """Remove what was written."""
        if self._following is not None:
            self._following.stop()
        self._file.close()
        self._part.unlink(missing_ok=True)


class _Tee:
    """A file that tells what is written into it."""

    def __init__(self, file: IO[bytes], wrote: Callable[[bytes], None]) -> None:
        self._file = file
        self._wrote = wrote

    def write(self, raw: bytes) -> int:
        """Write and tell."""
        self._wrote(raw)
        return self._file.write(raw)

    def flush(self) -> None:
        """Pass on."""
        self._file.flush()


def _compare(path: Path, manifest: Manifest, following: Following | None = None) -> None:
    """Compare a file with its manifest; what follows it has read most of it already."""
    try:
        if following is not None:
            found = following.contents(manifest.size)
        else:
            with path.open("rb") as file:
                found = contents_of(file)
    except OSError as problem:
        raise _trouble(path, problem) from None
    except zstandard.ZstdError as problem:
        raise Permanent(f"{path}: it cannot be read ({problem})") from None
    found.check(manifest, str(path))


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _trouble(path: Path, problem: OSError) -> Transient | Invalid:
    if isinstance(problem, PermissionError | NotADirectoryError | FileNotFoundError):
        return Invalid("cleaner_archive", str(path), f"a folder that can be written ({problem.strerror})")
    return Transient(f"{path}: {problem.strerror or problem}")
