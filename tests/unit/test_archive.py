"""Archives in a folder: what holds there alone; the rest is in the contract."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from companion.core.errors import CompanionError, Invalid, Permanent, Transient
from companion.core.ports import Batch
from maintenance.archive import contents
from maintenance.archive import folder as module
from maintenance.archive.folder import Folder
from maintenance.archive.manifest import Manifest, read_manifest


def lines_of(count: int, start: int = 0) -> list[bytes]:
    return [f'{{"id":{n},"text":"é🦔{n}"}}\n'.encode() for n in range(start, start + count)]


def documents(count: int, start: int = 0) -> Batch:
    return Batch(count, f"{start:04}", f"{start + count - 1:04}", b"".join(lines_of(count, start)))


def write(folder: Folder, count: int = 100, run: str = "run", fence: int = 1, policy: str = "audits") -> Manifest:
    writing = folder.begin(policy, run, fence)
    for start in range(0, count, 30):
        writing.add(documents(min(30, count - start), start))
    return writing.finish(policy=policy, run=run, fence=fence, collection="mqtt_audits", before=7, now=1000 + fence)


def test_whose_they_are(tmp_path: Path) -> None:
    """The files are their owner's alone."""
    write(Folder(tmp_path / "archive"))
    files = sorted((tmp_path / "archive" / "audits").iterdir())
    assert [file.name for file in files] == ["run+1.json", "run+1.jsonl.zst"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_what_a_crash_leaves(tmp_path: Path) -> None:
    """A file without a manifest is no archive; the next life of the run sweeps what it left, and nothing of other runs."""
    folder = Folder(tmp_path)
    for run in ("run", "run2"):
        folder.begin("audits", run, 1).add(documents(3))
    assert folder.list() == []
    manifest = write(folder, 3, fence=2)
    assert folder.find("audits", "run") == manifest
    assert sorted(path.name for path in (tmp_path / "audits").iterdir()) == [
        "run+2.json",
        "run+2.jsonl.zst",
        "run2+1.jsonl.zst.part",
    ]


def test_a_life_that_comes_late(tmp_path: Path) -> None:
    """Who was paused and ends its archive after its successor did spoils nothing."""
    folder = Folder(tmp_path)
    late = folder.begin("audits", "run", 1)
    late.add(documents(5))
    manifest = write(folder, 9, fence=2)
    with pytest.raises(CompanionError):
        # Its file was swept away: it cannot even be read back.
        late.finish(policy="audits", run="run", fence=1, collection="mqtt_audits", before=7, now=1)
    assert folder.find("audits", "run") == manifest
    folder.verify(manifest)


def test_a_newer_release(tmp_path: Path) -> None:
    """Its manifests are not understood by halves."""
    manifest = write(Folder(tmp_path))
    with pytest.raises(Invalid, match="newer release"):
        read_manifest(manifest.text().replace(b'"version": 1', b'"version": 2'), "x")


def test_a_file_that_is_not_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When what is read back differs, there is no archive."""
    folder = Folder(tmp_path)
    writing = folder.begin("audits", "run", 1)
    writing.add(documents(100))
    real = module._sync

    def spoiling(file: object) -> None:
        real(file)  # type: ignore[arg-type]
        path = tmp_path / "audits" / "run+1.jsonl.zst.part"
        path.write_bytes(path.read_bytes()[:-1] + b"?")

    monkeypatch.setattr(module, "_sync", spoiling)
    with pytest.raises(Permanent, match=r"part: "):
        writing.finish(policy="audits", run="run", fence=1, collection="mqtt_audits", before=7, now=1)
    writing.abandon()
    assert list((tmp_path / "audits").iterdir()) == []
    assert folder.find("audits", "run") is None


def test_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file is read back while it is written; the archive is the same one."""
    whole = write(Folder(tmp_path / "whole"), 1000)
    monkeypatch.setattr(module, "_PIECE", 1000)
    folder = Folder(tmp_path / "pieces")
    pieces = write(folder, 1000)
    folder.verify(pieces)
    assert pieces.content_sha256 == whole.content_sha256
    assert pieces.size > whole.size
    assert b"".join(folder.lines(pieces, 7)) == b"".join(lines_of(1000))
    folder.begin("audits", "run", 2).abandon()


@pytest.mark.parametrize("what", ["begin", "end", "longer", "shorter", "gone"])
def test_pieces_that_are_not_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Wherever the file is not what was written, there is no archive."""
    monkeypatch.setattr(module, "_PIECE", 1000)
    folder = Folder(tmp_path)
    writing = folder.begin("audits", "run", 1)
    path = tmp_path / "audits" / "run+1.jsonl.zst.part"
    real, spoiled = contents.Following.until, list[int]()

    def spoiling(self: contents.Following, size: int) -> None:
        if what == "begin" and not spoiled:
            spoiled.append(size)
            _spoil(path, 8)
        real(self, size)

    monkeypatch.setattr(contents.Following, "until", spoiling)
    for start in range(0, 900, 30):
        writing.add(documents(30, start))
    synced = module._sync

    def spoiling_the_end(file: object) -> None:
        synced(file)  # type: ignore[arg-type]
        size = path.stat().st_size
        if what == "end":
            _spoil(path, size - 2)
        elif what == "longer":
            with path.open("ab") as more:
                more.write(b"x")
        elif what == "shorter":
            os.truncate(path, size - 1)
        elif what == "gone":
            path.unlink()

    writing.add(documents(20, 900))
    monkeypatch.setattr(module, "_sync", spoiling_the_end)
    with pytest.raises(CompanionError, match=r"part: |run\+1"):
        writing.finish(policy="audits", run="run", fence=1, collection="mqtt_audits", before=7, now=1)
    writing.abandon()
    assert list((tmp_path / "audits").iterdir()) == []
    assert not [one for one in threading.enumerate() if one.name == "archive-reader"]


def _spoil(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (was,) = file.read(1)
        file.seek(at)
        file.write(bytes([was ^ 1]))


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named; a full disk may be over soon."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Invalid, match="cleaner_archive"):
        Folder(tmp_path / "file").begin("audits", "run", 1)
    writing = Folder(tmp_path).begin("audits", "run", 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Transient, match="No space left"):
        writing.finish(policy="audits", run="run", fence=1, collection="mqtt_audits", before=7, now=1)
    writing.abandon()
