"""10,000 changes while processes are killed, stopped and frozen: nothing lost, in order per entity and topic."""

from __future__ import annotations

from pathlib import Path

from tests.faults.broker import NEVER, MortalBroker
from tests.faults.conftest import Note
from tests.faults.harness import house
from tests.faults.workload import plan, planned

CHANGES = 10_000
WINDOW = 64


async def test_a_service_killed_again_and_again(tmp_path: Path, note: Note) -> None:
    """`kill -9` of the service, three times: every change that got its 202 arrives, in order."""
    async with house(tmp_path, plan(CHANGES)) as run:
        for share in (0.1, 0.4, 0.7):
            await run.reach(share)
            await run.kill_service()
        verdict = await run.finish()
        note(run.summary("service killed", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples


async def test_a_broker_restarted_again_and_again(tmp_path: Path, note: Note) -> None:
    """A clean restart of the broker, four times, once while its subscriber is away: every change arrives, in order."""
    async with house(tmp_path, plan(CHANGES)) as run:
        for share, seconds in ((0.1, 0), (0.3, 0.5), (0.5, 2)):
            await run.reach(share)
            await run.restart_broker(seconds)
        await run.reach(0.7)
        async with run.unheard():
            await run.restart_broker()
        verdict = await run.finish()
        note(run.summary("broker restarted", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples


async def test_a_broker_killed_again_and_again(tmp_path: Path, note: Note) -> None:
    """`kill -9` of a broker that saves nothing: what is missing is only what it had acknowledged and then forgot.

    Once it is killed while its subscriber is away, so that it surely forgets something: this shows that the loss is seen.
    """
    async with house(tmp_path, plan(CHANGES, shared=False), MortalBroker(autosave=NEVER)) as run:
        for share in (0.1, 0.3, 0.5):
            await run.reach(share)
            await run.kill_broker()
        await run.reach(0.7)
        async with run.unheard():
            await run.kill_broker()
        verdict = await run.finish()
        note(run.summary("broker killed", verdict))
    assert (verdict.clean, verdict.dead) == (True, 0), verdict.examples
    assert 0 < verdict.broker_lost < CHANGES / 10
    assert run.listener.fresh_sessions == 1


async def test_a_service_told_to_end(tmp_path: Path, note: Note) -> None:
    """SIGTERM, three times: what is in work is finished and saved, so that nothing is published twice."""
    async with house(tmp_path, plan(CHANGES)) as run:
        for share in (0.1, 0.35, 0.6):
            await run.reach(share)
            run.hit("service terminated")
            await run.end_service()
            assert run.books.checkpoint() == run.books.last_settled()
            await run.service.start()
        verdict = await run.finish()
        note(run.summary("service terminated", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples
    assert verdict.repeats == 0


async def test_a_service_told_to_end_while_the_broker_is_stuck(tmp_path: Path, note: Note) -> None:
    """SIGTERM while no acknowledgement comes: the service exits 0 after its deadline; only what was in flight comes twice."""
    async with house(tmp_path, plan(CHANGES), shutdown_deadline=1) as run:
        await run.reach(0.4)
        await run.terminate_service_unanswered()
        verdict = await run.finish()
        note(run.summary("service terminated unanswered", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples
    assert verdict.repeats <= WINDOW


async def test_both_killed(tmp_path: Path, note: Note) -> None:
    """The service is killed while the broker is away, and finds it again: every change arrives, in order."""
    async with house(tmp_path, plan(CHANGES)) as run:
        for share in (0.2, 0.6):
            await run.reach(share)
            await run.kill_service_without_broker()
        verdict = await run.finish()
        note(run.summary("service killed without broker", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples


async def test_processes_frozen_for_seconds(tmp_path: Path, note: Note) -> None:
    """Service and broker freeze for three seconds each: posters repeat, messages wait, every change arrives, in order."""
    async with house(tmp_path, plan(CHANGES)) as run:
        await run.reach(0.3)
        await run.freeze_service(3)
        assert run.poster.repeated_batches > 0
        await run.reach(0.6)
        assert await run.freeze_broker(3) > 0
        verdict = await run.finish()
        note(run.summary("frozen", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 0), verdict.examples


async def test_a_topic_that_the_broker_refuses(tmp_path: Path, note: Note) -> None:
    """Changes with a topic refused with 0x87 become dead and say why; their other topics, and all other changes, arrive."""
    alone, shared = planned(500, 1), [planned(504, number, shared=True) for number in (1, 2, 3)]
    lanes = [list(lane) for lane in plan(CHANGES - 4)]
    middle = len(lanes[0]) // 2
    lanes[0][middle:middle] = [alone, *shared]
    broker = MortalBroker(denied=[alone.topics[0], shared[0].topics[1]])
    async with house(tmp_path, lanes, broker, publisher_attempts=4) as run:
        await run.reach(0.5)
        await run.restart_broker()
        verdict = await run.finish()
        note(run.summary("topic refused", verdict))
    assert (verdict.clean, verdict.broker_lost, verdict.dead) == (True, 0, 4), verdict.examples
    dead = {event_id: record.dead for event_id, record in run.books.records().items() if record.dead is not None}
    assert dead == {
        alone.event_id: f"{alone.topics[0]}: 0x87 not authorized",
        **{change.event_id: f"{change.topics[1]}: 0x87 not authorized" for change in shared},
    }
    assert run.service.log.count('"attempt": 3') == len(dead)
