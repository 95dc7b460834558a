"""The trail of audit records in front of a store that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker_hooks import audit as trail_module
from broker_hooks.audit import AuditTrail
from companion.core.chain import Entry
from companion.core.errors import Permanent, Transient
from companion.core.seals import ChainCheck, Report
from companion.metrics import Metrics
from companion.spool import Spool
from tests.support.entities import audit
from tests.support.traces import lines
from tests.support.waiting import wait_until


@dataclass
class Away:
    """Audits that a test lets go away and come back, and that may lose their answers; they keep an entry once."""

    problem: Exception | None = None
    kept: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    attempts: int = 0
    hold: asyncio.Event | None = None
    unheard: bool = False
    stored: dict[tuple[str, int], Entry] = field(default_factory=dict)

    async def keep(self, entries: Sequence[Entry]) -> None:
        self.attempts += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.problem is not None and not self.unheard:
            raise self.problem
        for one in entries:
            if (one.chain, one.number) not in self.stored:
                self.stored[one.chain, one.number] = one
                self.kept.append(one.audit.detail)
        self.batches.append(len(entries))
        if self.problem is not None:
            raise self.problem

    def check(self) -> Report:
        """Check every chain."""
        report = Report()
        for chain in dict.fromkeys(name for name, _ in self.stored):
            check = ChainCheck(chain, report)
            check.take(sorted(one for one in self.stored.values() if one.chain == chain))
            check.finish()
        return report


@pytest.fixture
def audits() -> Away:
    return Away()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def trail(audits: Away, metrics: Metrics) -> AuditTrail:
    return AuditTrail(audits, metrics)


@contextlib.asynccontextmanager
async def working(trail: AuditTrail) -> AsyncIterator[None]:
    """Let the trail write while the block runs."""
    task = asyncio.create_task(trail.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def record(trail: AuditTrail, *details: str) -> None:
    for detail in details:
        trail.record(audit(detail=detail))


def dropped(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("companion_audits_dropped_total")


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


NUMBERS = [str(number) for number in range(2500)]


async def test_records_are_written_in_batches(trail: AuditTrail, audits: Away) -> None:
    """Everything that waits is written, in order, in batches of at most a thousand."""
    record(trail, *NUMBERS)
    assert audits.attempts == 0
    await trail.flush()
    assert (audits.kept, audits.batches) == (NUMBERS, [1000, 1000, 500])
    await trail.flush()
    assert audits.attempts == 3


async def test_it_works_by_itself(trail: AuditTrail, audits: Away) -> None:
    """What is recorded is written without being asked for, now and later."""
    async with working(trail):
        for number in range(3):
            record(trail, str(number))
            await wait_until(lambda: len(audits.kept) == number + 1)  # noqa: B023 - awaited within the round
    assert audits.kept == ["0", "1", "2"]


async def test_a_store_that_is_away(
    trail: AuditTrail, audits: Away, metrics: Metrics, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is away the records wait, in order; when it is back they are all written, and none twice."""
    monkeypatch.setattr(trail_module, "_EVERY", 0.001)
    monkeypatch.setattr(trail_module, "_BACKOFF", (0.01, 0.01))
    audits.problem = Transient("store: away")
    async with working(trail):
        record(trail, *NUMBERS[:1500])
        await wait_until(lambda: audits.attempts >= 3)
        record(trail, *NUMBERS[1500:])
        assert audits.kept == []
        audits.problem = None
        await wait_until(lambda: len(audits.kept) >= len(NUMBERS))
    assert audits.kept == NUMBERS
    assert dropped(metrics) == 0
    warnings = [line for line in lines(logged) if line["event"] == "audit records wait"]
    assert warnings[0]["problem"] == "store: away"
    assert warnings[0]["waiting"] == 1500


async def test_a_store_that_is_away_for_too_long(
    trail: AuditTrail, audits: Away, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When too many wait the oldest go, and are counted."""
    monkeypatch.setattr(trail_module, "_KEPT", 100)
    audits.problem = Transient("store: away")
    record(trail, *NUMBERS[:90])
    with pytest.raises(Transient):
        await trail.flush()
    record(trail, *NUMBERS[90:130])
    audits.problem = None
    await trail.flush()
    # Those that were tried already keep their places; what was lost is itself recorded.
    assert audits.kept == [*NUMBERS[:90], "30 records", *NUMBERS[120:130]]
    assert dropped(metrics) == 30
    assert audits.check().counts() == {"checked": 101, "unsealed": 101}


async def test_records_that_no_store_takes(
    trail: AuditTrail, audits: Away, metrics: Metrics, logged: io.StringIO
) -> None:
    """A batch that will never be taken is given up and counted: it does not hold up those behind it."""
    audits.problem = Permanent("store: no such table")
    record(trail, "a", "b")
    await trail.flush()
    audits.problem = None
    record(trail, "c")
    await trail.flush()
    assert audits.kept == ["2 records", "c"]
    assert dropped(metrics) == 2
    assert audits.check().count == 0
    assert [line["records"] for line in lines(logged) if line["event"] == "audit records lost"] == [2]


async def test_an_end_in_the_middle_of_writing(trail: AuditTrail, audits: Away) -> None:
    """When the work is cancelled while it writes, the batch is kept and written by the last words."""
    audits.hold = asyncio.Event()
    record(trail, "a", "b")
    async with working(trail):
        await wait_until(lambda: audits.attempts == 1)
        record(trail, "c")
    audits.hold = None
    await trail.flush()
    assert audits.kept == ["a", "b", "c"]


async def test_what_comes_while_it_writes(trail: AuditTrail, audits: Away) -> None:
    """A record that comes during a write is written in the same flush."""
    audits.hold = asyncio.Event()
    record(trail, "a")
    flushing = asyncio.create_task(trail.flush())
    await wait_until(lambda: audits.attempts == 1)
    record(trail, "b")
    audits.hold.set()
    await flushing
    assert (audits.kept, audits.batches) == (["a", "b"], [1, 1])


async def test_an_answer_that_was_lost(trail: AuditTrail, audits: Away) -> None:
    """What was stored without an answer is tried again as what it is, and is not stored twice."""
    audits.problem, audits.unheard = Transient("store: no answer in time"), True
    record(trail, "a", "b")
    with pytest.raises(Transient):
        await trail.flush()
    record(trail, "c")
    audits.problem = None
    await trail.flush()
    assert audits.kept == ["a", "b", "c"]
    assert audits.check().counts() == {"checked": 3, "unsealed": 3}


@pytest.fixture
def spooling(audits: Away, metrics: Metrics, tmp_path: Path) -> AuditTrail:
    return AuditTrail(audits, metrics, Spool(tmp_path, 100_000))


async def test_to_the_disk_and_back(
    spooling: AuditTrail, audits: Away, metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is away the records are on the disk; when it is back they are delivered, in order, and none is lost."""
    monkeypatch.setattr(trail_module, "_EVERY", 0.001)
    monkeypatch.setattr(trail_module, "_BACKOFF", (0.01, 0.01))
    audits.problem, audits.unheard = Transient("store: no answer in time"), True
    async with working(spooling):
        record(spooling, *NUMBERS[:100])
        await wait_until(lambda: metrics.registry.get_sample_value("companion_audits_spooled") == 100)
        audits.unheard = False
        record(spooling, *NUMBERS[100:120])
        await wait_until(lambda: metrics.registry.get_sample_value("companion_audits_spooled") == 120)
        assert len(files(tmp_path)) == 1
        audits.problem = None
        await wait_until(lambda: len(audits.kept) >= 120)
        record(spooling, *NUMBERS[120:130])
        await wait_until(lambda: len(audits.kept) >= 130)
    await spooling.close()
    assert audits.kept == NUMBERS[:130]
    assert files(tmp_path) == []
    assert dropped(metrics) == 0
    assert audits.check().counts() == {"checked": 130, "unsealed": 130}


async def test_a_full_disk(audits: Away, metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the spool has no room for waits in memory; when that is full too, the oldest there go, and how many is recorded."""
    monkeypatch.setattr(trail_module, "_BATCH", 10)
    monkeypatch.setattr(trail_module, "_KEPT", 30)
    trail = AuditTrail(audits, metrics, Spool(tmp_path, 7_000))
    audits.problem = Transient("store: away")
    record(trail, *NUMBERS[:30])
    with pytest.raises(Transient):
        await trail.flush()
    spooled = int(metrics.registry.get_sample_value("companion_audits_spooled") or 0)
    assert 0 < spooled < 30
    record(trail, *NUMBERS[30:100])
    audits.problem = None
    await trail.flush()
    assert audits.kept[:spooled] == NUMBERS[:spooled]
    assert audits.kept[-1] == NUMBERS[99]
    assert f"{int(dropped(metrics) or 0)} records" in audits.kept
    assert len(audits.kept) == 101 - int(dropped(metrics) or 0)
    assert audits.check().count == 0


async def test_the_end_while_the_store_is_away(
    spooling: AuditTrail, audits: Away, metrics: Metrics, tmp_path: Path
) -> None:
    """What cannot be written at the end is on the disk, and the next process delivers it."""
    audits.problem = Transient("store: away")
    record(spooling, "a", "b")
    await spooling.close()
    assert len(files(tmp_path)) == 1
    audits.problem = None
    after = AuditTrail(audits, metrics, Spool(tmp_path, 100_000))
    async with working(after):
        await wait_until(lambda: len(audits.kept) == 2)
        await wait_until(lambda: not files(tmp_path))
    assert audits.kept == ["a", "b"]


async def test_a_disk_that_takes_nothing(audits: Away, metrics: Metrics, tmp_path: Path, logged: io.StringIO) -> None:
    """Without a folder to write to the records wait in memory."""
    file = tmp_path / "file"
    file.touch()
    trail = AuditTrail(audits, metrics, Spool(file / "spool", 100_000))
    audits.problem = Transient("store: away")
    record(trail, "a")
    with pytest.raises(Transient):
        await trail.flush()
    assert any(line["event"] == "audit records cannot be kept on the disk" for line in lines(logged))
    audits.problem = None
    await trail.flush()
    assert audits.kept == ["a"]
