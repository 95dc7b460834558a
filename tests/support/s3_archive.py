"""Archives in a bucket of the test's own, in parts so small that a few of them are soon written."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from companion.core.ports import Batch
from maintenance.archive import s3 as module
from maintenance.archive.manifest import Manifest
from maintenance.archive.s3 import Storage, Uploading
from tests.support.s3 import BucketOfTest, new_bucket

PART = 64 << 10


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> BucketOfTest:
    monkeypatch.setattr(module, "_PART_BYTES", PART)
    monkeypatch.setattr(module, "_RANGE_BYTES", PART // 3)
    return new_bucket()


def storage(bucket: BucketOfTest, folder: Path, **changes: Any) -> Storage:
    return Storage(bucket.place, bucket.settings(folder, **changes))


def documents(size: int) -> Iterator[Batch]:
    """Yield batches that no compression makes smaller, about so many bytes together."""
    source = random.Random(7)  # noqa: S311 - noise
    for number in range(size // 4096):
        line = source.randbytes(4096).replace(b"\n", b" ") + b"\n"
        yield Batch(1, f"{number:06}", f"{number:06}", line)


def finish(writing: Uploading, fence: int = 1) -> Manifest:
    return writing.finish(policy="audits", run="run", fence=fence, collection="mqtt_audits", before=7, now=1)


def filled(target: Storage, size: int = 5 * PART, run: str = "run", fence: int = 1) -> Uploading:
    writing = target.begin("audits", run, fence)
    for batch in documents(size):
        writing.add(batch)
    return writing
