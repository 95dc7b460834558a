"""Settings from variables and files of a test, and the error with which they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from companion.core.errors import Invalid
from companion.loading import load

MARK = "s3cret-MARKER-0f-the-tests"
LONG = MARK.ljust(64, "x")


def refused(environ: dict[str, str]) -> Invalid:
    """Return the error with which these variables are refused: one printable line."""
    with pytest.raises(Invalid) as problem:
        load(environ)
    assert str(problem.value).isprintable()
    return problem.value


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def with_file(tmp_path: Path, text: str, **environ: str) -> dict[str, str]:
    """Return an environment that names a TOML file of this text."""
    return {"COMPANION_CONFIG": write(tmp_path / "companion.toml", text), **environ}
