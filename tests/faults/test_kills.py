"""Thousands of changes while processes are killed, stopped and frozen: nothing lost, in order per entity and topic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import Note
from tests.faults.broker import NEVER, MortalBroker
from tests.faults.harness import house
from tests.faults.servers import PROFILES, Profile
from tests.faults.workload import plan, planned

# The stand-in for MongoDB takes some hundred writes a second.
CHANGES: Final[Mapping[Profile, int]] = {"embedded": 10_000, "production": 2_000}
WINDOW = 64
LONG = 10.0
"""Of a lease that is given back, and that a slow machine must not lose: that would be a reason to publish twice."""

pytestmark = pytest.mark.parametrize("profile", PROFILES)


async def test_a_service_killed_again_and_again(profile: Profile, tmp_path: Path, note: Note) -> None:
    """`kill -9` of the service, three times: every change that got its 202 arrives, in order."""
    async with house(tmp_path, plan(CHANGES[profile]), profile=profile) as run:
        for share in (0.1, 0.4, 0.7):
            await run.reach(share)
            await run.kill_service()
        verdict = await run.finish()
        note(run.summary(f"{profile}: service killed", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples


async def test_a_broker_restarted_again_and_again(profile: Profile, tmp_path: Path, note: Note) -> None:
    """A clean restart of the broker, again and again, once while its subscriber is away: every change arrives, in order."""
    # A publisher waits the longer for a broker the more often it was lost in a short time.
    restarts = ((0.1, 0.0), (0.3, 0.5), (0.5, 2.0)) if profile == "embedded" else ((0.1, 0.0), (0.4, 0.5))
    async with house(tmp_path, plan(CHANGES[profile]), profile=profile) as run:
        for share, seconds in restarts:
            await run.reach(share)
            await run.restart_broker(seconds)
        await run.reach(0.7)
        async with run.unheard():
            await run.restart_broker()
        verdict = await run.finish()
        note(run.summary(f"{profile}: broker restarted", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples


async def test_a_broker_killed_again_and_again(profile: Profile, tmp_path: Path, note: Note) -> None:
    """`kill -9` of a broker that saves nothing: what is missing is only what it had acknowledged and then forgot.

    Once it is killed while its subscriber is away, so that it surely forgets something: this shows that the loss is seen.
    """
    async with house(
        tmp_path, plan(CHANGES[profile], shared=False), MortalBroker(autosave=NEVER), profile=profile
    ) as run:
        for share in (0.1, 0.3, 0.5):
            await run.reach(share)
            await run.kill_broker()
        await run.reach(0.7)
        async with run.unheard():
            await run.kill_broker()
        verdict = await run.finish()
        note(run.summary(f"{profile}: broker killed", verdict))
    assert (verdict.clean, verdict.dead) == (True, 0), verdict.examples
    assert 0 < verdict.broker_lost < CHANGES[profile] / 10
    assert run.listener.fresh_sessions == 1


async def test_a_service_told_to_end(profile: Profile, tmp_path: Path, note: Note) -> None:
    """SIGTERM, three times: what is in work is finished and saved, so that nothing is published twice."""
    async with house(tmp_path, plan(CHANGES[profile]), profile=profile, publisher_lease=LONG) as run:
        for share in (0.1, 0.35, 0.6):
            await run.reach(share)
            await run.hit("service terminated")
            await run.end_service()
            for mark in await run.books.marks():
                assert mark.checkpoint == mark.last_settled, mark
            await run.service.start()
        verdict = await run.finish()
        note(run.summary(f"{profile}: service terminated", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples
    assert verdict.repeats == 0


async def test_a_service_told_to_end_while_the_broker_is_stuck(profile: Profile, tmp_path: Path, note: Note) -> None:
    """SIGTERM while no acknowledgement comes: the service exits 0 after its deadline; only what was in flight comes twice."""
    async with house(
        tmp_path, plan(CHANGES[profile]), profile=profile, shutdown_deadline=1, publisher_lease=LONG
    ) as run:
        await run.reach(0.4)
        await run.terminate_service_unanswered()
        verdict = await run.finish()
        note(run.summary(f"{profile}: service terminated unanswered", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples
    assert verdict.repeats <= WINDOW


async def test_both_killed(profile: Profile, tmp_path: Path, note: Note) -> None:
    """The service is killed while the broker is away, and finds it again: every change arrives, in order."""
    async with house(tmp_path, plan(CHANGES[profile]), profile=profile) as run:
        for share in (0.2, 0.6):
            await run.reach(share)
            await run.kill_service_without_broker()
        verdict = await run.finish()
        note(run.summary(f"{profile}: service killed without broker", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples


async def test_processes_frozen_for_seconds(profile: Profile, tmp_path: Path, note: Note) -> None:
    """Service and broker freeze for three seconds each: posters repeat, messages wait, every change arrives, in order."""
    async with house(tmp_path, plan(CHANGES[profile]), profile=profile) as run:
        await run.reach(0.3)
        await run.freeze_service(3)
        # With stores that are slower than the publisher, all lanes may be held back at that moment.
        assert run.flow.poster.repeated > 0 or profile == "production"
        await run.reach(0.6)
        assert await run.freeze_broker(3) > 0
        verdict = await run.finish()
        note(run.summary(f"{profile}: frozen", verdict))
    # Longer than the lease lasts: what was not finished was begun anew.
    assert "the lease was lost" in run.service.log
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples


async def test_a_topic_that_the_broker_refuses(profile: Profile, tmp_path: Path, note: Note) -> None:
    """Changes with a topic refused with 0x87 become dead and say why; their other topics, and all other changes, arrive."""
    lanes = [list(lane) for lane in plan(CHANGES[profile] - 8)]
    refused, denied = [], []
    # Of the first lane, that is always posted, and of the last, that is written to MongoDB where there is one.
    for lane, index in ((lanes[0], 500), (lanes[-1], 503)):
        alone, shared = planned(index, 1), [planned(index + 4, number, shared=True) for number in (1, 2, 3)]
        middle = len(lane) // 2
        lane[middle:middle] = [alone, *shared]
        denied += [alone.topics[0], shared[0].topics[1]]
        refused += [alone, *shared]
    async with house(tmp_path, lanes, MortalBroker(denied=denied), profile=profile, publisher_attempts=4) as run:
        await run.reach(0.5)
        await run.restart_broker()
        verdict = await run.finish()
        note(run.summary(f"{profile}: topic refused", verdict))
        records = await run.books.records()
        named = await run.named(refused)
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 8), verdict.examples
    dead = {event_id: record.dead for event_id, record in records.items() if record.dead is not None}
    assert dead == {change.event_id: f"{change.topics[-1]}: 0x87 not authorized" for change in named}
    assert run.service.log.count('"attempt": 3') == len(dead)
