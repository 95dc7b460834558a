"""Both stores are killed and disappear in a black hole under load: nobody is let in wrongly, and all is well again by itself."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Note
from tests.faults.outages import clean, outages, summary


async def test_outages(tmp_path: Path, note: Note) -> None:
    """Four outages in one life of the service: explicit answers in time, no false allow, recovery, no storm of connections."""
    reports = await outages(tmp_path, before=1.5, seconds=5.0, rate=100.0)
    note(f"outages: {summary(reports)}")
    assert len(reports) == 4
    assert clean(reports), [(one.name, one.verdict, one.problems) for one in reports]
