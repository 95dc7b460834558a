"""The judge of the fault tests sees what it is there to see."""

from __future__ import annotations

import pytest

from tests.faults.ledger import Arrival, Life, Record, Verdict, judge
from tests.faults.workload import LANES, plan, planned

ONE, TWO, THREE = (planned(1, number) for number in (1, 2, 3))
TOPIC = ONE.topics[0]
ALIVE = [Life(0, killed=False)]


def arrived(*changes: str) -> list[Arrival]:
    return [Arrival(TOPIC, event_id) for event_id in changes]


def acknowledged(at: int) -> Record:
    return Record(at, None)


def test_all_is_well() -> None:
    """Everything in order, and again, is no fault; repeats are counted."""
    arrivals = arrived(ONE.event_id, TWO.event_id, ONE.event_id, THREE.event_id, TWO.event_id)
    assert judge([ONE, TWO, THREE], arrivals, {}, ALIVE) == Verdict(repeats=2)


def test_a_change_that_overtakes() -> None:
    """A number that comes first behind a higher one of its entity is out of order, even if it is repeated in order."""
    verdict = judge([ONE, TWO], arrived(TWO.event_id, ONE.event_id, TWO.event_id), {}, ALIVE)
    assert (verdict.out_of_order, verdict.repeats, verdict.clean) == (1, 1, False)


def test_entities_have_orders_of_their_own() -> None:
    """Two entities may arrive in any order; so may the two topics of one."""
    other, shared = planned(2, 1), [planned(4, number, shared=True) for number in (1, 2)]
    arrivals = [*arrived(ONE.event_id, TWO.event_id), Arrival(other.topics[0], other.event_id)]
    arrivals += [Arrival(change.topics[side], change.event_id) for side in (1, 0) for change in shared]
    assert judge([ONE, other, TWO, *shared], arrivals, {}, ALIVE) == Verdict()


@pytest.mark.parametrize(
    ("record", "lives", "whose"),
    [
        (None, ALIVE, "lost"),
        (Record(None, None), ALIVE, "lost"),
        (acknowledged(50), ALIVE, "lost"),
        (acknowledged(50), [Life(0, killed=True), Life(100, killed=False)], "broker_lost"),
        (acknowledged(100), [Life(0, killed=True), Life(100, killed=False)], "lost"),
        (acknowledged(99), [Life(0, killed=False), Life(100, killed=True)], "lost"),
        (acknowledged(150), [Life(0, killed=False), Life(100, killed=True), Life(200, killed=False)], "broker_lost"),
        (Record(None, f"{TOPIC}: 0x87 not authorized"), ALIVE, "dead"),
        (Record(None, "another/topic: 0x87 not authorized"), ALIVE, "lost"),
    ],
)
def test_whose_loss_it_is(record: Record | None, lives: list[Life], whose: str) -> None:
    """A missing message is the broker's loss only if a broker that was killed acknowledged it, dead only for its own topic."""
    records = {} if record is None else {TWO.event_id: record}
    verdict = judge([ONE, TWO, THREE], arrived(ONE.event_id, THREE.event_id), records, lives)
    assert {name: getattr(verdict, name) for name in ("lost", "broker_lost", "dead")} == {
        "lost": 0,
        "broker_lost": 0,
        "dead": 0,
    } | {whose: 1}


def test_every_topic_of_a_change_counts() -> None:
    """A change that arrives on one of its two topics only is a lost message."""
    shared = planned(4, 1, shared=True)
    verdict = judge([shared], [Arrival(shared.topics[0], shared.event_id)], {}, ALIVE)
    assert (verdict.lost, verdict.out_of_order) == (1, 0)


def test_what_was_never_taken() -> None:
    """A message that nobody posted is no repeat and no loss: it fails the run."""
    with pytest.raises(AssertionError, match="never taken"):
        judge([ONE], arrived(ONE.event_id, TWO.event_id), {}, ALIVE)


def test_a_plan() -> None:
    """A plan has as many changes as asked for, each entity in one lane with its numbers in a row, and hot entities.

    An entity is created when it is not there, and only then.
    """
    lanes = plan(5000, entities=100, seed=3)
    assert len(lanes) == LANES
    numbers: dict[tuple[int, str], list[int]] = {}
    last: dict[str, str] = {}
    for index, lane in enumerate(lanes):
        for change in lane:
            numbers.setdefault((index, change.entity), []).append(change.number)
            assert (change.op == "create") is (last.get(change.entity, "destroy") == "destroy")
            last[change.entity] = change.op
    assert len(numbers) == len({entity for _, entity in numbers}) == 100
    assert all(row == list(range(1, len(row) + 1)) for row in numbers.values())
    lengths = sorted(len(row) for row in numbers.values())
    assert sum(lengths) == 5000
    assert lengths[-5] > 3 * lengths[-6]
