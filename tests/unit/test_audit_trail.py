"""The trail of audit records in front of a store that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from broker_hooks import audit as trail_module
from broker_hooks.audit import AuditTrail
from companion.core.errors import Permanent, Transient
from companion.core.model import Audit
from companion.metrics import Metrics
from tests.support.entities import audit
from tests.support.traces import lines
from tests.support.waiting import wait_until


@dataclass
class Away:
    """Audits that a test lets go away and come back; everything else of a store is not asked for."""

    problem: Exception | None = None
    kept: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    attempts: int = 0
    hold: asyncio.Event | None = None

    async def append(self, records: Sequence[Audit]) -> None:
        self.attempts += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.problem is not None:
            raise self.problem
        self.kept += [record.detail for record in records]
        self.batches.append(len(records))

    async def latest(self, limit: int) -> Sequence[Audit]:
        raise NotImplementedError

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        raise NotImplementedError

    async def trim(self, keep: int, limit: int, *, dry: bool = False) -> int:
        raise NotImplementedError


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
    assert audits.kept == NUMBERS[30:130]
    assert dropped(metrics) == 30


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
    assert audits.kept == ["c"]
    assert dropped(metrics) == 2
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
