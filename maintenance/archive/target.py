"""Where archives are kept: the calls that the cleaner and the command line use, whatever stands behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from companion.core.ports import Batch
from companion.settings import Settings
from companion.settings.archives import BucketPlace
from maintenance.archive.bucket import require_boto3
from maintenance.archive.folder import Folder
from maintenance.archive.manifest import Manifest
from maintenance.archive.s3 import Storage


class Archiving(Protocol):
    """An archive that is being written."""

    count: int

    def add(self, batch: Batch) -> None:
        """Write documents, one a line."""
        ...

    def finish(self, *, policy: str, run: str, fence: int, collection: str, before: int, now: int) -> Manifest:
        """Make it durable, read it back, give it its manifest. Raises `Permanent` when it is not what was written."""
        ...

    def abandon(self) -> None:
        """Remove what is not finished; what is finished stays."""
        ...


class Target(Protocol):
    """The archives of one place: whole or not there at all. An archive is one that has a manifest.

    Every method takes its time: call it in a thread. They raise `Transient` while the place is away, `Invalid` when it is none.
    """

    def begin(self, policy: str, run: str, fence: int) -> Archiving:
        """Begin an archive, in place of what earlier lives of this run left unfinished."""
        ...

    def find(self, policy: str, run: str) -> Manifest | None:
        """Return the manifest of the archive of a run, that of its latest life; None when there is none."""
        ...

    def list(self, policy: str = "*") -> Sequence[Manifest]:
        """Return the manifests of all archives, or of those of one policy, oldest first."""
        ...

    def lines(self, manifest: Manifest, limit: int, after: int = 0) -> Iterator[bytes]:
        """Yield the lines behind the first `after`, up to `limit` of them at a time, each with its end."""
        ...

    def verify(self, manifest: Manifest) -> None:
        """Read the archive from end to end. Raises `Permanent` that says in one line in what it differs from its manifest."""
        ...


def target_of(settings: Settings, place: Path | BucketPlace | None = None) -> Target:
    """Return the place of the archives: `place`, or that of the settings.

    Raises `Invalid` for S3-compatible storage where its client, an extra, is not installed.
    """
    place = place or settings.cleaner_archive or settings.data_dir / "archive"
    if isinstance(place, Path):
        return Folder(place)
    require_boto3()
    return Storage(place, settings)
