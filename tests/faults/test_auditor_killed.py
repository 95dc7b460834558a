"""The auditor, killed (`kill -9`) before and after every single step, one after the other."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from companion.core.chain import Chain
from companion.core.seals import Report
from companion.stores.embedded import EmbeddedStore
from maintenance import roots
from maintenance.audit_check import check_all, read_seals
from maintenance.auditor import Auditor
from tests.conftest import Note
from tests.faults.killing import PARALLEL, Folders, kill_at_every_step
from tests.support.entities import audit

CHAINS, RECORDS = 3, 12
MOST_STEPS: Final = 200


class Auditing(Folders):
    """The chains of some writers."""

    async def prepare(self) -> Mapping[str, Any]:
        now = self.begin()
        async with EmbeddedStore.open(self.data) as store:
            for _ in range(CHAINS):
                await store.audits.keep(Chain().seal([audit(now + number) for number in range(RECORDS)]))
            await self.ask(store, Auditor(), now)
        return {"data_dir": self.data}

    async def check(self, *, undisturbed: bool) -> None:
        """There is one seal, over everything, whose root is in the file once, and the run is done."""
        del undisturbed
        path = self.data / "audit-roots.jsonl"
        async with EmbeddedStore.open(self.data) as store:
            report = Report()
            sealed = await read_seals(store.audits, report, roots.read(path))
            async for _ in check_all(store.audits, report, sealed, cut=0, now=int(time.time() * 1000)):
                pass
            await self.done(store)
        assert report.counts() == {"checked": CHAINS * RECORDS}
        assert sealed.last is not None
        assert (sealed.last.number, sealed.last.run, len(sealed.last.segments)) == (1, self.run_id, CHAINS)
        lines = await asyncio.to_thread(path.read_text)
        assert [json.loads(line)["root"] for line in lines.splitlines()] == [sealed.last.root]


@pytest.mark.timeout(280)
async def test_the_auditor(tmp_path: Path, note: Note) -> None:
    """Killed before and after each of its steps, in turn: the next life comes to the same end as an undisturbed run."""
    cases = [Auditing(tmp_path / f"{n}") for n in range(PARALLEL)]
    steps, _ = await kill_at_every_step(tmp_path, note, "auditor", cases)
    assert 30 < steps < MOST_STEPS
