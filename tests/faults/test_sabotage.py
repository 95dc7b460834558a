"""The fault tests fail where they should: a service that loses or disorders changes is found out."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.conftest import Note
from tests.faults.harness import House, house
from tests.faults.workload import plan
from tests.support.waiting import wait_until

CHANGES = 2_000
SKIPPED = 7


async def skip_changes(run: House) -> None:
    """Note changes as acknowledged that were never published, as a service would that acknowledges too early.

    None of them is the next one of its entity: those may have been on their way to the frozen broker.
    """
    run.broker.freeze()  # so that changes wait
    await wait_until(lambda: len(run.poster.taken) - run.settled > CHANGES / 20)
    await run.end_service()
    run.broker.thaw()
    with run.books.open() as connection:
        skipped = connection.execute(
            "UPDATE inbox SET acknowledged_at = ? WHERE position IN ("
            " SELECT position FROM inbox AS later WHERE acknowledged_at IS NULL AND EXISTS ("
            " SELECT 1 FROM inbox WHERE entity = later.entity AND position < later.position AND acknowledged_at IS NULL)"
            " ORDER BY position DESC LIMIT ?)",
            (int(time.time() * 1000), SKIPPED),
        ).rowcount
    assert skipped == SKIPPED
    await run.service.start()


async def test_changes_that_are_acknowledged_too_early_are_lost(tmp_path: Path, note: Note) -> None:
    """Changes that the record calls acknowledged and that nobody got are counted, each of them, as lost by us."""
    async with house(tmp_path, plan(CHANGES, shared=False), shutdown_deadline=1) as run:
        await run.reach(0.5)
        await skip_changes(run)
        verdict = await run.finish()
        note(run.summary("sabotage: acknowledged too early", verdict))
    assert (verdict.lost, verdict.out_of_order, verdict.broker_lost) == (SKIPPED, 0, 0)
    assert not verdict.clean


async def test_a_killed_broker_excuses_only_its_own_loss(tmp_path: Path) -> None:
    """The same is lost by us also in a run in which the broker was killed, before and after."""
    async with house(tmp_path, plan(CHANGES, shared=False), shutdown_deadline=1) as run:
        await run.reach(0.2)
        await run.kill_broker()
        await run.reach(0.4)
        await skip_changes(run)
        await run.restart_broker()
        await run.reach(0.6)
        await run.kill_broker()
        verdict = await run.finish()
    assert (verdict.lost, verdict.out_of_order) == (SKIPPED, 0)


async def test_changes_that_change_places_are_out_of_order(tmp_path: Path, note: Note) -> None:
    """Two changes of an entity that go the wrong way round are seen, and nothing else is."""
    lanes = [list(lane) for lane in plan(CHANGES)]
    (hot, _), *_ = Counter(change.entity for change in lanes[0]).most_common(1)
    first, second = [index for index, change in enumerate(lanes[0]) if change.entity == hot][20:22]
    lanes[0][first], lanes[0][second] = lanes[0][second], lanes[0][first]
    async with house(tmp_path, lanes) as run:
        verdict = await run.finish()
        note(run.summary("sabotage: places changed", verdict))
    assert (verdict.lost, verdict.out_of_order) == (0, len(lanes[0][first].topics))


async def test_a_fault_beside_the_flow_is_no_proof(tmp_path: Path) -> None:
    """A fault that hits when everything is over fails the run instead of passing for nothing."""
    async with house(tmp_path, plan(CHANGES)) as run:
        await run.reach(1)
        await run.kill_service()
        with pytest.raises(AssertionError, match="service killed"):
            await run.finish()
