"""Keys: which headers a keyring admits, and how a key is made."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from companion.core.errors import Invalid
from companion.keys import Keyring, apt_keys, ensure_key, hook_keys, ops_keys
from companion.settings import Settings

KEY, OTHER = "a-key-of-the-tests", "another-key-of-the-tests"


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_every_key_is_admitted(key: str) -> None:
    """Each key of the ring is good, and only as a bearer token."""
    keyring = Keyring([KEY, OTHER])
    assert keyring.admits(f"Bearer {key}") is True
    for header in (key, f"Basic {key}", f"Bearer  {key}", f"Bearer {key} ", f"Bearer {key.upper()}", f"Bearer{key}"):
        assert keyring.admits(header) is False


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "\udcff", "Bearer \udc80", "Bearer é🦔", "x" * 100_000]
)
def test_others_are_not(header: str | None) -> None:
    """Nothing, little, much, and what is no text are refused without an error."""
    assert Keyring([KEY]).admits(header) is False


def test_a_ring_without_keys() -> None:
    """Nobody would be admitted, which is a mistake of whoever made it."""
    with pytest.raises(ValueError, match="without a key"):
        Keyring([])


def test_a_ring_takes_other_keys() -> None:
    """From then on only those are admitted; none at all would be a mistake, and changes nothing."""
    keyring = Keyring([KEY])
    keyring.use([OTHER])
    assert (keyring.admits(f"Bearer {KEY}"), keyring.admits(f"Bearer {OTHER}")) == (False, True)
    with pytest.raises(ValueError, match="without a key"):
        keyring.use([])
    assert keyring.admits(f"Bearer {OTHER}")


def test_a_ring_does_not_show_its_keys() -> None:
    """What a keyring holds does not lead back to the keys."""
    assert KEY not in repr(vars(Keyring([KEY])))


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """The first look makes a long random key that is its owner's alone; every later look finds that one."""
    path = tmp_path / "made" / "hook.key"
    key = ensure_key(path)
    assert len(key) == 43
    assert ensure_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["hook.key"]
    assert ensure_key(tmp_path / "other.key") != key


def test_whoever_comes_together_agrees(tmp_path: Path) -> None:
    """Of many who look for the same key at once all get the same, and nothing else is left in the folder."""
    together = threading.Barrier(16)

    def look(path: Path) -> str:
        together.wait()
        return ensure_key(path)

    with ThreadPoolExecutor(16) as threads:
        for number in range(10):
            path = tmp_path / str(number) / "hook.key"
            assert len(set(threads.map(look, [path] * 16))) == 1
            assert [one.name for one in path.parent.iterdir()] == ["hook.key"]


def test_a_key_that_was_put_there(tmp_path: Path) -> None:
    """A key from elsewhere counts, without the space around it."""
    (tmp_path / "hook.key").write_text(f" {KEY}\r\n")
    assert ensure_key(tmp_path / "hook.key") == KEY


def test_a_key_file_that_is_of_no_use(tmp_path: Path) -> None:
    """A file that is empty, no text, or no file, and a folder that is none, are named with what would be right."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "folder").mkdir()
    for path, said in (
        (tmp_path / "empty", "not empty"),
        (tmp_path / "binary", "utf-8"),
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / "empty" / "hook.key", "File exists"),
    ):
        with pytest.raises(Invalid, match="data_dir") as problem:
            ensure_key(path)
        assert said in str(problem.value)


def test_configured_keys_come_first(tmp_path: Path) -> None:
    """Where keys are configured none is made; where none are, each port has one of its own."""
    configured = Settings.model_validate({"data_dir": tmp_path, "hooks_keys": KEY, "ops_keys": f"{KEY},{OTHER}"})
    assert (list(hook_keys(configured)), list(ops_keys(configured))) == ([KEY], [KEY, OTHER])
    assert list(tmp_path.iterdir()) == []
    made = Settings(data_dir=tmp_path)
    assert hook_keys(made) == hook_keys(made) != ops_keys(made)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["hook.key", "ops.key"]


def test_keys_of_long_lived_tokens(tmp_path: Path) -> None:
    """One is made on a machine of its own; where processes share a store, another one in each would be of no use."""
    made = Settings(data_dir=tmp_path)
    assert apt_keys(made) == apt_keys(made)
    assert [one.name for one in tmp_path.iterdir()] == ["apt.key"]
    shared = {
        "store": "production",
        "mongo_url": "mongodb://m",
        "redis_url": "redis://r",
        "data_dir": tmp_path / "none",
    }
    assert list(apt_keys(Settings.model_validate(shared))) == []
    assert list(apt_keys(Settings.model_validate(shared | {"apt_keys": KEY}))) == [KEY]
    assert not (tmp_path / "none").exists()
