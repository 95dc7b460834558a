"""The fault tests fail where they should: a service that loses or disorders changes is found out."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import Note
from tests.faults.harness import House, house
from tests.faults.production_books import ProductionBooks
from tests.faults.servers import PROFILES, Profile
from tests.faults.workload import Planned, plan
from tests.support.eventually import eventually

CHANGES = 2_000
SKIPPED = 7

both_profiles = pytest.mark.parametrize("profile", PROFILES)


async def skip_changes(run: House) -> None:
    """Let changes of the inbox pass for acknowledged that were never published, as a service would that acknowledges too early."""
    run.broker.freeze()  # so that changes wait
    await run.flow.rest()
    await run.end_service()
    run.broker.thaw()
    await run.books.skip(SKIPPED)
    await run.service.start()


@both_profiles
async def test_changes_that_are_acknowledged_too_early_are_lost(profile: Profile, tmp_path: Path, note: Note) -> None:
    """Changes that the record calls acknowledged and that nobody got are counted, each of them, as lost by us."""
    async with house(tmp_path, plan(CHANGES, shared=False), profile=profile, shutdown_deadline=1) as run:
        await run.reach(0.5)
        await skip_changes(run)
        verdict = await run.finish()
        note(run.summary(f"{profile}: sabotage: acknowledged too early", verdict))
    assert (verdict.lost, verdict.out_of_order, verdict.broker_lost) == (SKIPPED, 0, 0)
    assert not verdict.clean


@both_profiles
async def test_a_killed_broker_excuses_only_its_own_loss(profile: Profile, tmp_path: Path) -> None:
    """The same is lost by us also in a run in which the broker was killed, before and after."""
    async with house(tmp_path, plan(CHANGES, shared=False), profile=profile, shutdown_deadline=1) as run:
        await run.reach(0.2)
        await run.kill_broker()
        await run.reach(0.4)
        await skip_changes(run)
        await run.restart_broker()
        await run.reach(0.6)
        await run.kill_broker()
        verdict = await run.finish()
    assert (verdict.lost, verdict.out_of_order) == (SKIPPED, 0)


def exchange(lane: list[Planned]) -> int:
    """Let two updates in a row of a hot entity change places; return how many topics see it."""
    (hot, _), *_ = Counter(change.entity for change in lane).most_common(1)
    row = [index for index, change in enumerate(lane) if change.entity == hot]
    first, second = next(pair for pair in pairwise(row) if {lane[index].op for index in pair} == {"update"})
    lane[first], lane[second] = lane[second], lane[first]
    return len(lane[first].topics)


@both_profiles
async def test_changes_that_change_places_are_out_of_order(profile: Profile, tmp_path: Path, note: Note) -> None:
    """Two changes of an entity that go the wrong way round are seen, on either way, and nothing else is."""
    lanes = [list(lane) for lane in plan(CHANGES)]
    topics = sum(exchange(lane) for lane in (lanes[0], lanes[-1]))
    async with house(tmp_path, lanes, profile=profile) as run:
        verdict = await run.finish()
        note(run.summary(f"{profile}: sabotage: places changed", verdict))
    assert (verdict.lost, verdict.out_of_order) == (0, topics)


async def test_a_checkpoint_that_runs_ahead_loses_changes(tmp_path: Path, note: Note) -> None:
    """What the checkpoint of the change stream has passed and nobody got is counted as lost by us, each change of it."""
    async with house(tmp_path, plan(CHANGES, shared=False), profile="production") as run:
        books = run.books
        assert isinstance(books, ProductionBooks)
        await run.reach(0.5)
        await run.end_service()
        # MongoDB takes changes without a service; none of them is on its way to the broker.
        await eventually(lambda: _at_least(books, SKIPPED), what="changes wait in the change stream")
        await books.move_checkpoint(SKIPPED)
        await run.service.start()
        # The service's own record shows it at the end, and so does what arrived.
        with pytest.raises(AssertionError, match="first_unsettled"):
            await run.finish()
        verdict = await run.verdict()
        note(run.summary("production: sabotage: checkpoint moved", verdict))
    assert (verdict.lost, verdict.out_of_order, verdict.broker_lost) == (SKIPPED, 0, 0)
    assert not verdict.clean


async def _at_least(books: ProductionBooks, count: int) -> bool:
    return await books.waiting_in_stream() >= count


@both_profiles
async def test_a_fault_beside_the_flow_is_no_proof(profile: Profile, tmp_path: Path) -> None:
    """A fault that hits when everything is over fails the run instead of passing for nothing."""
    async with house(tmp_path, plan(CHANGES), profile=profile) as run:
        await run.reach(1)
        await run.kill_service()
        with pytest.raises(AssertionError, match="service killed"):
            await run.finish()
