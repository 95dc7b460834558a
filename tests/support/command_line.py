"""The command line in this process, as a person types it, with its data in a folder of the test."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from companion.cli import main


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    errors: str

    @property
    def problem(self) -> str:
        """The one line that a failed command prints."""
        assert self.code != 0, self.output
        assert self.output == ""
        assert self.errors.startswith("companion: ")
        assert self.errors.count("\n") == 1, self.errors
        return self.errors.strip()


Companion = Callable[..., Ended]


@pytest.fixture
def companion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Companion:
    """Run `companion ARGUMENTS` in this process with its data in a folder of the test."""
    monkeypatch.setenv("COMPANION_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COMPANION_PASSWORD_COST", "4")

    def run(*arguments: str, typed: str = "") -> Ended:
        monkeypatch.setattr("sys.argv", ["companion", *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Ended(code, captured.out, captured.err)

    return run
