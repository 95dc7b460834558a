"""Archives in S3-compatible storage, over real HTTP: what holds there alone; the rest is in the contract."""

from __future__ import annotations

import datetime as dt
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from companion.core.errors import CompanionError, Permanent, Transient
from companion.core.ports import Batch
from maintenance.archive import s3 as module
from maintenance.archive.bucket import Bucket
from tests.support.s3 import PREFIX, BucketOfTest
from tests.support.s3_archive import PART, bucket, documents, filled, finish, storage

__all__ = ["bucket"]


def test_in_parts(bucket: BucketOfTest, tmp_path: Path) -> None:
    """A large archive goes up in parts while it is written, and comes back range by range."""
    target = storage(bucket, tmp_path)
    writing = filled(target)
    assert bucket.uploads() == ["audits/run+1.jsonl.zst"]
    assert bucket.names() == []
    manifest = finish(writing)
    assert bucket.uploads() == []
    assert manifest.size > 4 * PART
    head = bucket.client.head_object(Bucket=bucket.name, Key=f"{PREFIX}/audits/run+1.jsonl.zst")
    assert head["ETag"].strip('"').endswith("-6")
    target.verify(manifest)
    assert list(target.lines(manifest, 1)) == [batch.lines for batch in documents(5 * PART)]
    writing.abandon()
    assert target.find("audits", "run") == manifest


def test_memory(bucket: BucketOfTest, tmp_path: Path) -> None:
    """An archive of many parts takes no more memory than one of a few: writing, verifying, reading."""

    def peak(size: int, fence: int) -> int:
        target = storage(bucket, tmp_path)
        target.list()
        tracemalloc.start()
        try:
            manifest = finish(filled(target, size, fence=fence), fence)
            assert sum(map(len, target.lines(manifest, 10))) > size * 0.9
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(3 * PART, 1)
    small, large = peak(3 * PART, 2), peak(30 * PART, 3)
    assert large < small + 6 * PART


def test_more_parts_than_there_can_be(bucket: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with a word on what to do, and leaves nothing behind."""
    monkeypatch.setattr(module, "_MOST_PARTS", 2)
    writing = storage(bucket, tmp_path).begin("audits", "run", 1)
    lines = b"".join(batch.lines for batch in documents(5 * PART))
    with pytest.raises(Permanent, match="budget"):
        writing.add(Batch(80, "0", "79", lines))
    writing.abandon()
    assert (bucket.uploads(), bucket.names()) == ([], [])


def test_what_earlier_lives_left(bucket: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next life gives up the uploads of earlier ones, not those of later ones and of other runs, unless they are old."""
    week = module._ABANDONED
    # moto has it that every upload began in 2010.
    monkeypatch.setattr(module, "_ABANDONED", dt.timedelta(days=36_500))
    target = storage(bucket, tmp_path)
    for run, fence in (("run", 9), ("run", 1), ("run2", 1)):
        filled(target, run=run, fence=fence)
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key=f"{PREFIX}/sagas/run+1.jsonl.zst")
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key=f"{PREFIX}/audits/notes")
    assert len(bucket.uploads()) == 5
    target.begin("audits", "run", 2)
    left = ["audits/notes", "audits/run+9.jsonl.zst", "audits/run2+1.jsonl.zst", "sagas/run+1.jsonl.zst"]
    assert bucket.uploads() == left
    monkeypatch.setattr(module, "_ABANDONED", week)
    target.begin("audits", "run", 2)
    assert bucket.uploads() == ["sagas/run+1.jsonl.zst"]


def test_a_life_whose_upload_was_given_up(bucket: BucketOfTest, tmp_path: Path) -> None:
    """Who was paused past its lease finds that its upload is gone: no archive comes of it."""
    target = storage(bucket, tmp_path)
    late = filled(target)
    target.begin("audits", "run", 2)
    with pytest.raises(Transient):
        finish(late)
    late.abandon()
    assert bucket.names() == []


@pytest.mark.parametrize("size", [PART // 2, 5 * PART])
def test_storage_that_keeps_something_else(bucket: BucketOfTest, tmp_path: Path, size: int) -> None:
    """When what is read back is not what was written, there is no archive."""

    class Spoiling(Bucket):
        """Somebody else writes the object right after it was stored."""

        def put(self, key: str, content: bytes, kind: str) -> None:
            super().put(key, content, kind)
            self._spoil(key)

        def complete(self, key: str, upload: str, tags: Any) -> None:
            super().complete(key, upload, tags)
            self._spoil(key)

        def _spoil(self, key: str) -> None:
            name = key.removeprefix(f"{PREFIX}/")
            bucket.write(name, bucket.read(name)[:-1] + b"?")

    target = storage(bucket, tmp_path)
    target._bucket = Spoiling(bucket.place, bucket.settings(tmp_path))
    writing = filled(target, size)
    with pytest.raises(Permanent, match=r"s3://.*run\+1.jsonl.zst: "):
        finish(writing)
    writing.abandon()
    assert bucket.names() == ["audits/run+1.jsonl.zst"]
    assert target.find("audits", "run") is None


def test_an_object_that_changes_while_it_is_read(bucket: BucketOfTest, tmp_path: Path) -> None:
    """Two objects are never mixed."""
    target = storage(bucket, tmp_path)
    lines = target.lines(finish(filled(target)), 1)
    next(lines)
    bucket.write("audits/run+1.jsonl.zst", bucket.read("audits/run+1.jsonl.zst"))
    bucket.write("audits/run+1.jsonl.zst", b"something else")
    with pytest.raises(Permanent, match="PreconditionFailed"):
        list(lines)


def test_abandoned_from_another_thread(bucket: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on ends at its next request, and there is no archive."""
    at_it, go_on = threading.Event(), threading.Event()
    real = Bucket.get_range

    def slow(self: Bucket, key: str, tag: str, start: int, size: int) -> bytes:
        at_it.set()
        assert go_on.wait(30)
        return real(self, key, tag, start, size)

    monkeypatch.setattr(Bucket, "get_range", slow)
    writing = filled(storage(bucket, tmp_path))
    problems: list[CompanionError] = []

    def finishing() -> None:
        try:
            finish(writing)
        except CompanionError as problem:
            problems.append(problem)

    one, other = threading.Thread(target=finishing), threading.Thread(target=writing.abandon)
    one.start()
    assert at_it.wait(30)
    other.start()
    while not writing._over.is_set():
        time.sleep(0.01)
    go_on.set()
    one.join(30)
    other.join(30)
    assert [type(problem) for problem in problems] == [Transient]
    assert bucket.names() == ["audits/run+1.jsonl.zst"]


def test_encryption(bucket: BucketOfTest, tmp_path: Path) -> None:
    """It is asked for with every object, and not without the setting."""
    for asked, size in (("AES256", PART // 2), ("aws:kms", 3 * PART), ("", PART // 2)):
        finish(filled(storage(bucket, tmp_path, s3_encryption=asked), size))
        for end in (".json", ".jsonl.zst"):
            head = bucket.client.head_object(Bucket=bucket.name, Key=f"{PREFIX}/audits/run+1{end}")
            assert head.get("ServerSideEncryption", "") == asked
