"""What was taken against what arrived: lost, out of order, repeated; and whose loss it is. Pure.

A message that is missing is *ours* unless the service's own record says that the broker acknowledged it during a life that ended
with `kill -9`: then the broker lost it with its memory. A message is missing as well when it was given up ("dead"); that is only
right if the reason that was kept names its topic.

The record has one time for a change, that of its last acknowledgement. For a change of one topic it is the time of that message.
For a change of two topics the other message may have been acknowledged by a broker that was killed before: runs in which brokers
are killed have changes of one topic only, so that this never has to be guessed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.faults.workload import Planned


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message as the subscriber got it."""

    topic: str
    event_id: str


@dataclass(frozen=True, slots=True)
class Record:
    """What the service noted about a change; the time is in Unix milliseconds, None while not acknowledged."""

    acknowledged_at: int | None
    dead: str | None


@dataclass(frozen=True, slots=True)
class Life:
    """A broker from its start (Unix milliseconds) to the start of the next, and whether it ended by `kill -9`."""

    began: int
    killed: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many messages were lost by us, arrived behind a later one, arrived again, were lost by the broker, were given up."""

    lost: int = 0
    out_of_order: int = 0
    repeats: int = 0
    broker_lost: int = 0
    dead: int = 0
    examples: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether we kept our word."""
        return self.lost == 0 and self.out_of_order == 0

    def __str__(self) -> str:
        return (
            f"lost={self.lost} out_of_order={self.out_of_order} repeats={self.repeats} broker_lost={self.broker_lost}"
        )


def judge(
    taken: Sequence[Planned], arrivals: Sequence[Arrival], records: Mapping[str, Record], lives: Sequence[Life]
) -> Verdict:
    """Compare; raises `AssertionError` for an arrival that nobody has posted."""
    expected = {(topic, change.event_id): change for change in taken for topic in change.topics}
    seen: set[tuple[str, str]] = set()
    latest: dict[tuple[str, str], int] = {}
    disordered: list[str] = []
    for arrival in arrivals:
        key = (arrival.topic, arrival.event_id)
        if key not in expected:
            raise AssertionError(f"arrived but never taken: {key}")
        if key in seen:
            continue
        seen.add(key)
        change = expected[key]
        stream = (arrival.topic, change.entity)
        if change.number <= latest.get(stream, 0):
            disordered.append(f"out of order: {key} after number {latest[stream]}")
        latest[stream] = max(change.number, latest.get(stream, 0))
    found: dict[str, list[str]] = {"lost": [], "broker": [], "dead": []}
    for topic, event_id in expected.keys() - seen:
        whose = _whose(topic, records.get(event_id), lives)
        found[whose].append(f"lost: {event_id} on {topic}: {records.get(event_id)}")
    return Verdict(
        lost=len(found["lost"]),
        out_of_order=len(disordered),
        repeats=len(arrivals) - len(seen),
        broker_lost=len(found["broker"]),
        dead=len(found["dead"]),
        examples=tuple(sorted(found["lost"])[:10] + disordered[:10]),
    )


def _whose(topic: str, record: Record | None, lives: Sequence[Life]) -> str:
    """Tell whose loss a missing message is: `lost` (ours), `broker` or `dead`."""
    if record is None:
        return "lost"
    if record.dead is not None:
        return "dead" if f"{topic}: " in record.dead else "lost"
    if record.acknowledged_at is None:
        return "lost"
    life = bisect_right([one.began for one in lives], record.acknowledged_at) - 1
    return "broker" if life >= 0 and lives[life].killed else "lost"
