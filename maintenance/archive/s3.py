"""Archives in S3-compatible storage: `{prefix}/{policy}/{run}+{fence}.jsonl.zst`, and its manifest, `.json`; as in a folder.

An archive goes up in parts while it is written, so that neither memory nor disk grows with it. The finished object is read back
from the storage, byte by byte, and compared; only then its manifest is written, and read back too. An archive is one that has a
manifest. Of what earlier lives of a run left, unfinished uploads are given up; an object without a manifest is ignored, and the
next life writes under a name of its own, for the fence is part of it. Nothing is ever deleted here: credentials that cannot do.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import zstandard

from companion.core.errors import CompanionError, Permanent, Transient
from companion.core.ports import Batch
from companion.settings import Settings
from companion.settings.archives import BucketPlace
from maintenance.archive.bucket import Bucket
from maintenance.archive.contents import LEVEL, contents_of, read_lines
from maintenance.archive.manifest import Manifest, file_of, read_manifest

_DATA: Final = ".jsonl.zst"
_MANIFEST: Final = ".json"
_PART_BYTES: Final = 16 << 20
_MOST_PARTS: Final = 10_000
"""S3's own limit: with our parts an archive of 156 GiB."""

_RANGE_BYTES: Final = 8 << 20
_READERS: Final = 8
_ABANDONED: Final = dt.timedelta(days=7)
"""After so long nobody is at work on an upload any more, whatever run it was of."""


class Storage:
    """The archives in a bucket. Every method takes its time: call it in a thread."""

    def __init__(self, place: BucketPlace, settings: Settings) -> None:
        self._bucket = Bucket(place, settings)
        self._where = str(place)
        self._prefix = place.prefix and f"{place.prefix}/"

    def begin(self, policy: str, run: str, fence: int) -> Uploading:
        """Begin an archive, in place of what earlier lives of this run left unfinished."""
        begun = f"{self._prefix}{policy}/{run}+"
        long_ago = dt.datetime.now(dt.UTC) - _ABANDONED
        for upload in list(self._bucket.uploads(f"{self._prefix}{policy}/")):
            token = upload.key.removeprefix(begun).removesuffix(_DATA)
            earlier = upload.key.startswith(begun) and token.isdecimal() and int(token) <= fence
            if earlier or upload.begun_at < long_ago:
                self._bucket.abort(upload.key, upload.id)
        return Uploading(self._bucket, f"{self._prefix}{policy}/{file_of(run, fence)}", self._shown)

    def find(self, policy: str, run: str) -> Manifest | None:
        """Return the manifest of the archive of a run; None when there is none."""
        return max(self._manifests(f"{policy}/{run}+"), key=lambda one: one.fence, default=None)

    def list(self, policy: str = "*") -> Sequence[Manifest]:
        """Return the manifests of all archives, or of those of one policy, oldest first."""
        found = self._manifests("" if policy == "*" else f"{policy}/")
        return sorted(found, key=lambda one: (one.written_at, one.name))

    def lines(self, manifest: Manifest, limit: int, after: int = 0) -> Iterator[bytes]:
        """Yield the lines behind the first `after`, up to `limit` of them at a time, each with its end."""
        key = f"{self._prefix}{manifest.name}{_DATA}"
        try:
            yield from read_lines(_Object(self._bucket, key), limit, after)
        except zstandard.ZstdError as problem:
            raise Permanent(f"{self._shown(key)}: it cannot be read ({problem})") from None

    def verify(self, manifest: Manifest) -> None:
        """Read the archive from end to end. Raises `Permanent` that says in one line in what it differs from its manifest."""
        key = f"{self._prefix}{manifest.name}{_DATA}"
        _verify(_Object(self._bucket, key), self._shown(key), manifest)

    def _manifests(self, begin: str) -> Sequence[Manifest]:
        keys = [key for key in self._bucket.keys(self._prefix + begin) if self._is_manifest(key)]
        with ThreadPoolExecutor(_READERS, thread_name_prefix="archive") as pool:
            return list(pool.map(self._manifest, keys))

    def _is_manifest(self, key: str) -> bool:
        return key.endswith(_MANIFEST) and key.removeprefix(self._prefix).count("/") == 1

    def _manifest(self, key: str) -> Manifest:
        return read_manifest(self._bucket.get(key), key.removeprefix(self._prefix).removesuffix(_MANIFEST))

    def _shown(self, key: str) -> str:
        return f"{self._where}/{key.removeprefix(self._prefix)}"


class Uploading:
    """An archive that is being written. `abandon` may come from another thread: it ends what goes on at its next request."""

    def __init__(self, bucket: Bucket, name: str, shown: Callable[[str], str]) -> None:
        self.count = 0
        self._bucket = bucket
        self._name = name
        self._shown = shown
        self._content = hashlib.sha256()
        self._first = self._last = ""
        self._over = threading.Event()
        self._busy = threading.Lock()
        self._parts = _Parts(bucket, f"{name}{_DATA}", self._wanted)
        # What reads like a file is one to zstandard, whatever its types say.
        parts: Any = self._parts
        self._zstd: Any = zstandard.ZstdCompressor(level=LEVEL).stream_writer(parts, closefd=False)

    def add(self, batch: Batch) -> None:
        """Write documents, one a line; what makes a part is stored."""
        with self._busy:
            self._wanted()
            self._content.update(batch.lines)
            self._zstd.write(batch.lines)
        self._first = self._first or batch.first
        self._last = batch.last
        self.count += batch.count

    def finish(self, *, policy: str, run: str, fence: int, collection: str, before: int, now: int) -> Manifest:
        """Store the rest, read the object back, and give it its manifest. Raises `Permanent` when it is not what was written."""
        with self._busy:
            self._wanted()
            self._zstd.close()
            self._parts.complete()
            manifest = Manifest(
                policy,
                run,
                fence,
                collection,
                self.count,
                self._first,
                self._last,
                self._parts.size,
                self._parts.digest.hexdigest(),
                self._content.hexdigest(),
                before,
                now,
            )
            key = f"{self._name}{_DATA}"
            _verify(_Object(self._bucket, key, self._wanted), self._shown(key), manifest)
            self._wanted()
            text, key = manifest.text(), f"{self._name}{_MANIFEST}"
            self._bucket.put(key, text, "application/json")
            if self._bucket.get(key) != text:
                raise Permanent(f"{self._shown(key)}: it is not what was written")
        return manifest

    def abandon(self) -> None:
        """Give up the upload if it is not complete. What cannot be given up now, the next life does."""
        self._over.set()
        with self._busy, suppress(CompanionError):
            self._parts.abort()

    def _wanted(self) -> None:
        if self._over.is_set():
            raise Transient(f"{self._shown(self._name)}: it was abandoned")


class _Parts:
    """A file that becomes an object, part by part; a small one whole."""

    def __init__(self, bucket: Bucket, key: str, wanted: Callable[[], None]) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self._bucket = bucket
        self._key = key
        self._wanted = wanted
        self._rest = bytearray()
        self._upload = ""
        self._tags: list[str] = []

    def write(self, raw: bytes) -> int:
        """Take bytes; store them as soon as they make a part."""
        self.digest.update(raw)
        self.size += len(raw)
        self._rest += raw
        while len(self._rest) > _PART_BYTES:
            part = bytes(memoryview(self._rest)[:_PART_BYTES])
            del self._rest[:_PART_BYTES]
            self._store(part)
        return len(raw)

    def flush(self) -> None:
        """Do nothing: parts are as large as they are."""

    def complete(self) -> None:
        """Make the object."""
        if not self._upload:
            self._bucket.put(self._key, bytes(self._rest), "application/zstd")
            return
        self._store(bytes(self._rest))
        self._bucket.complete(self._key, self._upload, self._tags)
        self._upload = ""

    def abort(self) -> None:
        """Leave no upload behind."""
        if self._upload:
            self._bucket.abort(self._key, self._upload)
            self._upload = ""

    def _store(self, part: bytes) -> None:
        self._wanted()
        if len(self._tags) == _MOST_PARTS:
            raise Permanent(
                f"{self._key}: no object has more than {_MOST_PARTS} parts; let the policy do less in one run (budget)"
            )
        self._upload = self._upload or self._bucket.begin(self._key, "application/zstd")
        self._tags.append(self._bucket.part(self._key, self._upload, len(self._tags) + 1, part))


class _Object:
    """An object that reads like a file: range by range, so that whoever reads slowly holds no connection open."""

    def __init__(self, bucket: Bucket, key: str, wanted: Callable[[], None] = lambda: None) -> None:
        self._bucket = bucket
        self._key = key
        self._wanted = wanted
        self._version = bucket.look(key)
        self._at = 0
        self._range = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes (any number if negative), none at the end."""
        if not self._range and self._at < self._version.size:
            self._wanted()
            ahead = min(_RANGE_BYTES, self._version.size - self._at)
            content = self._bucket.get_range(self._key, self._version.tag, self._at, ahead)
            if len(content) != ahead:
                raise Permanent(f"{self._key}: {ahead} bytes were asked for, {len(content)} came")
            self._range = memoryview(content)
            self._at += ahead
        size = len(self._range) if size < 0 else size
        raw, self._range = bytes(self._range[:size]), self._range[size:]
        return raw


def _verify(stored: _Object, where: str, manifest: Manifest) -> None:
    try:
        found = contents_of(stored)
    except zstandard.ZstdError as problem:
        raise Permanent(f"{where}: it cannot be read ({problem})") from None
    found.check(manifest, where)
