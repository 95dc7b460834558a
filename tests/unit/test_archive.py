"""Archives in a folder: whole or not there at all."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path

import msgspec
import pytest

from companion.core.errors import CompanionError, Invalid, Permanent, Transient
from companion.core.ports import Batch
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


def test_written_and_read(tmp_path: Path) -> None:
    """What was written is read, whole or from any line on; the files are their owner's alone."""
    folder = Folder(tmp_path / "archive")
    manifest = write(folder)
    assert (manifest.name, manifest.count, manifest.first_id, manifest.last_id) == ("audits/run+1", 100, "0000", "0099")
    folder.verify(manifest)
    lines = lines_of(100)
    for limit, after in itertools.product((1, 7, 50, 99, 100, 101), (0, 1, 50, 97, 99)):
        found = list(folder.lines(manifest, limit, after))
        assert found == [b"".join(lines[at : at + limit]) for at in range(after, 100, limit)]
    assert list(folder.lines(manifest, 10, 100)) == list(folder.lines(manifest, 10, 101)) == []
    files = sorted((tmp_path / "archive" / "audits").iterdir())
    assert [file.name for file in files] == ["run+1.json", "run+1.jsonl.zst"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert files[1].stat().st_size == manifest.size < sum(map(len, lines))


def test_finding(tmp_path: Path) -> None:
    """The archive of a run is the one of its latest life; all are listed, oldest first."""
    folder = Folder(tmp_path)
    assert folder.find("audits", "run") is None
    assert folder.list() == []
    second, first = write(folder, fence=5), write(folder, fence=3)
    other = write(folder, 1, "other", 9, "sagas")
    assert folder.find("audits", "run") == second
    assert folder.find("audits", "ru") is None
    assert folder.list() == [first, second, other]
    assert folder.list("sagas") == [other]


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


@pytest.mark.parametrize("what", ["a bit", "cut off", "longer", "a frame more", "gone", "another manifest"])
def test_damage_is_found(tmp_path: Path, what: str) -> None:
    """Whatever has happened to the file, verifying says so."""
    folder = Folder(tmp_path)
    manifest = write(folder, 1000)
    file = tmp_path / "audits" / "run+1.jsonl.zst"
    content = bytearray(file.read_bytes())
    if what == "a bit":
        content[len(content) // 2] ^= 1
    elif what == "cut off":
        del content[-10:]
    elif what == "longer":
        content += b"x"
    elif what == "a frame more":
        content += bytes(content)
    elif what == "another manifest":
        manifest = _other(manifest)
    if what == "gone":
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(CompanionError, match=r"run\+1"):
        folder.verify(manifest)


def _other(manifest: Manifest) -> Manifest:
    return msgspec.json.decode(manifest.text().replace(b'"count": 1000', b'"count": 999'), type=Manifest)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"policy": 1}'])
def test_manifests_that_are_none(tmp_path: Path, text: bytes) -> None:
    """They are named; nothing is guessed."""
    (tmp_path / "audits").mkdir()
    (tmp_path / "audits" / "run+1.json").write_bytes(text)
    with pytest.raises(Invalid, match="audits/run"):
        Folder(tmp_path).list()


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
