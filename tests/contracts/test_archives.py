"""Archives, wherever they are kept: whole or not there at all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from companion.core.errors import CompanionError, Invalid
from companion.core.ports import Batch
from maintenance.archive.manifest import Manifest
from maintenance.archive.target import Target, target_of
from tests.support.s3 import new_bucket
from tests.support.service import make_settings


class Raw(Protocol):
    """What lies there, by name, for a test to see and to spoil."""

    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, content: bytes) -> None: ...

    def remove(self, name: str) -> None: ...


class RawFolder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self._root)) for path in self._root.rglob("*") if path.is_file())

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        (self._root / name).parent.mkdir(parents=True, exist_ok=True)
        (self._root / name).write_bytes(content)

    def remove(self, name: str) -> None:
        (self._root / name).unlink()


def made(kind: str, folder: Path) -> tuple[Target, Raw]:
    if kind == "folder":
        return target_of(make_settings(folder)), RawFolder(folder / "archive")
    bucket = new_bucket()
    return target_of(bucket.settings(folder)), bucket


@pytest.fixture(params=["folder", "s3"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Target, Raw]:
    return made(request.param, tmp_path)


def lines_of(count: int, start: int = 0) -> list[bytes]:
    return [f'{{"id":{n},"text":"é🦔{n}"}}\n'.encode() for n in range(start, start + count)]


def documents(count: int, start: int = 0) -> Batch:
    return Batch(count, f"{start:04}", f"{start + count - 1:04}", b"".join(lines_of(count, start)))


def write(target: Target, count: int = 100, run: str = "run", fence: int = 1, policy: str = "audits") -> Manifest:
    writing = target.begin(policy, run, fence)
    for start in range(0, count, 30):
        writing.add(documents(min(30, count - start), start))
    manifest = writing.finish(policy=policy, run=run, fence=fence, collection="mqtt_audits", before=7, now=1000 + fence)
    writing.abandon()
    return manifest


def test_written_and_read(both: tuple[Target, Raw]) -> None:
    """What was written is read, whole or from any line on; what is finished is not abandoned any more."""
    target, raw = both
    manifest = write(target)
    assert (manifest.name, manifest.count, manifest.first_id, manifest.last_id) == ("audits/run+1", 100, "0000", "0099")
    target.verify(manifest)
    lines = lines_of(100)
    for limit, after in itertools.product((1, 7, 50, 99, 100, 101), (0, 1, 50, 97, 99)):
        found = list(target.lines(manifest, limit, after))
        assert found == [b"".join(lines[at : at + limit]) for at in range(after, 100, limit)]
    assert list(target.lines(manifest, 10, 100)) == list(target.lines(manifest, 10, 101)) == []
    assert raw.names() == ["audits/run+1.json", "audits/run+1.jsonl.zst"]
    assert len(raw.read("audits/run+1.jsonl.zst")) == manifest.size < sum(map(len, lines))


def test_finding(both: tuple[Target, Raw]) -> None:
    """The archive of a run is the one of its latest life; all are listed, oldest first."""
    target, _ = both
    assert target.find("audits", "run") is None
    assert target.list() == []
    run = "cleaner@20261125T021700.000Z"
    second, first = write(target, run=run, fence=5), write(target, run=run, fence=3)
    other = write(target, 1, "other", 9, "sagas")
    assert target.find("audits", run) == second
    assert target.find("audits", run[:-1]) is None
    assert target.find("sagas", run) is None
    assert target.list() == [first, second, other]
    assert target.list("sagas") == [other]


def test_what_a_crash_leaves(both: tuple[Target, Raw]) -> None:
    """What has no manifest is no archive, and is not in the way of the next life."""
    target, raw = both
    target.begin("audits", "run", 1).add(documents(3))
    raw.write("audits/run+2.jsonl.zst", b"verified, and then came the end")
    assert target.list() == []
    assert target.find("audits", "run") is None
    manifest = write(target, 3, fence=3)
    assert target.find("audits", "run") == manifest
    assert target.list() == [manifest]
    target.verify(manifest)


def test_a_life_that_comes_late(both: tuple[Target, Raw]) -> None:
    """Who was paused and ends its archive before or after its successor does spoils nothing."""
    target, _ = both
    late = target.begin("audits", "run", 1)
    late.add(documents(5))
    manifest = write(target, 9, fence=2)
    try:
        late.finish(policy="audits", run="run", fence=1, collection="mqtt_audits", before=7, now=1)
    except CompanionError:
        # In a folder its file was swept away: it cannot even be read back.
        late.abandon()
    assert target.find("audits", "run") == manifest
    target.verify(manifest)


@pytest.mark.parametrize("what", ["a bit", "cut off", "longer", "a frame more", "gone", "another manifest"])
def test_damage_is_found(both: tuple[Target, Raw], what: str) -> None:
    """Whatever has happened to the file, verifying says so, and names it."""
    target, raw = both
    manifest = write(target, 1000)
    name = "audits/run+1.jsonl.zst"
    content = bytearray(raw.read(name))
    if what == "a bit":
        content[len(content) // 2] ^= 1
    elif what == "cut off":
        del content[-10:]
    elif what == "longer":
        content += b"x"
    elif what == "a frame more":
        content += bytes(content)
    elif what == "another manifest":
        manifest = msgspec.json.decode(manifest.text().replace(b'"count": 1000', b'"count": 999'), type=Manifest)
    if what == "gone":
        raw.remove(name)
    else:
        raw.write(name, bytes(content))
    with pytest.raises(CompanionError, match="audits"):
        target.verify(manifest)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"policy": 1}'])
def test_manifests_that_are_none(both: tuple[Target, Raw], text: bytes) -> None:
    """They are named; nothing is guessed."""
    target, raw = both
    raw.write("audits/run+1.json", text)
    with pytest.raises(Invalid, match="audits/run"):
        target.list()


@pytest.mark.parametrize("ways", [("folder", "s3"), ("s3", "folder")])
def test_archives_can_be_moved(tmp_path: Path, ways: Sequence[str]) -> None:
    """The files and the objects have the same names and content: whoever copies them has the same archives."""
    (one, here), (other, there) = (made(kind, tmp_path / kind) for kind in ways)
    manifest = write(one)
    for name in here.names():
        there.write(name, here.read(name))
    assert other.list() == [manifest]
    other.verify(manifest)
    assert list(other.lines(manifest, 30)) == list(one.lines(manifest, 30))
