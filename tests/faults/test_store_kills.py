"""Changes flow while the stores of the production profile are killed and frozen: nothing lost, in order per entity and topic."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Note
from tests.faults.harness import house
from tests.faults.store_faults import Store, freeze_store, kill_service_without, kill_store
from tests.faults.workload import plan

CHANGES = 2_000


@pytest.mark.parametrize("store", ["redis", "mongo"])
async def test_a_store_killed_again_and_again(store: Store, tmp_path: Path, note: Note) -> None:
    """`kill -9` of Redis or of MongoDB, for a moment, for a second, and of the service while it is away: every change arrives."""
    async with house(tmp_path, plan(CHANGES), profile="production") as run:
        for share, seconds in ((0.15, 0), (0.4, 1)):
            await run.reach(share)
            await kill_store(run, store, seconds)
        await run.reach(0.65)
        await kill_service_without(run, store)
        verdict = await run.finish()
        note(run.summary(f"{store} killed", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples


async def test_stores_frozen_for_seconds(tmp_path: Path, note: Note) -> None:
    """Redis and MongoDB freeze for three seconds each, longer than a lease lasts: every change arrives, in order."""
    async with house(tmp_path, plan(CHANGES), profile="production") as run:
        await run.reach(0.2)
        await freeze_store(run, "redis", 3)
        await run.reach(0.45)
        await freeze_store(run, "mongo", 3)
        verdict = await run.finish()
        note(run.summary("stores frozen", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples
