"""Benchmarks that cannot run here say so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_without_wrk(tmp_path: Path) -> None:
    """One line names the program that is missing; nothing is started."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.workers"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={"PATH": str(tmp_path)},
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "needs the program wrk" in result.stderr
