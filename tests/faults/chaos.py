"""A long run with random faults: `python -m tests.faults.chaos --seed 1 --changes 20000`.

Which faults come, after how many changes and for how long follows from the seed; the machine's own timing does not. All kinds
come at least once. The last line is `lost=… out_of_order=…`; the exit code is 1 unless both are 0, the one topic that the broker
refuses led to one dead change, and everything came to an end.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.broker import MortalBroker
from tests.faults.harness import House, house
from tests.faults.workload import Lane, Planned, plan, planned

_FIRST, _LAST = 0.05, 0.85
_CHANGES_PER_FAULT: Final = 1500
_FEWEST_CHANGES: Final = 2000
_REFUSED: Final = 500
"""The index of an entity that no plan has."""

Fault = Callable[[House, float], Awaitable[object]]

FAULTS: Final[Sequence[tuple[Fault, float]]] = (
    (lambda run, _: run.kill_service(), 0),
    (lambda run, _: run.terminate_service(), 0),
    (lambda run, seconds: run.freeze_service(seconds), 3),
    (lambda run, seconds: run.restart_broker(seconds), 2),
    (lambda run, seconds: run.kill_broker(seconds), 2),
    (lambda run, seconds: run.freeze_broker(seconds), 3),
    (lambda run, seconds: unheard(run, run.restart_broker(seconds)), 1),
    (lambda run, seconds: unheard(run, run.kill_broker(seconds)), 1),
    (lambda run, _: run.kill_service_without_broker(), 0),
    (lambda run, _: run.terminate_service_unanswered(), 0),
)
"""What can happen, and how many seconds it may last at most."""


async def unheard(run: House, fault: Awaitable[None]) -> None:
    """Let a fault happen while the subscriber is away."""
    async with run.unheard():
        await fault


@dataclass(frozen=True, slots=True)
class Moment:
    """A fault, the share of changes settled by then, how many seconds it lasts."""

    share: float
    fault: Fault
    seconds: float


def draw(changes: int, drawn: random.Random) -> Sequence[Moment]:
    """Return the faults of a run in their order."""
    rounds = max(1, round(changes / _CHANGES_PER_FAULT / len(FAULTS)))
    kinds = [kind for _ in range(rounds) for kind in drawn.sample(FAULTS, len(FAULTS))]
    shares = sorted(drawn.uniform(_FIRST, _LAST) for _ in kinds)
    return [
        Moment(share, fault, drawn.uniform(0, longest)) for share, (fault, longest) in zip(shares, kinds, strict=True)
    ]


def with_refused(lanes: Sequence[Lane], refused: Planned, drawn: random.Random) -> Sequence[Lane]:
    """Return the lanes with one more change somewhere in the first."""
    first, *others = lanes
    place = drawn.randrange(len(first))
    return [[*first[:place], refused, *first[place:]], *others]


async def rage(run: House, moments: Sequence[Moment]) -> str | None:
    """Let everything happen and wait for the end; return what went wrong, if anything."""
    try:
        for moment in moments:
            await run.reach(moment.share)
            await moment.fault(run, moment.seconds)
            say(f"{run.hits[-1].fault} at {run.hits[-1].taken}")
        await run.settle()
        run.check_hits()
    except AssertionError as problem:
        return f"{problem}\n{run.service.log[-4000:]}"
    return None


async def main(seed: int, changes: int) -> int:
    """Run once; return the exit code."""
    drawn = random.Random(seed)  # noqa: S311 - repeatable, and no secret
    refused = planned(_REFUSED, 1)
    lanes = with_refused(plan(changes - 1, shared=False, seed=seed), refused, drawn)
    moments = draw(changes, drawn)
    broker = MortalBroker(denied=refused.topics)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        async with house(Path(folder), lanes, broker, publisher_attempts=4, shutdown_deadline=1) as run:
            problem = await rage(run, moments)
            verdict = run.verdict()
            say(run.summary(f"chaos seed={seed}", verdict))
    for line in (*verdict.examples, *([problem] if problem else [])):
        say(line)
    say(f"lost={verdict.lost} out_of_order={verdict.out_of_order}")
    return 0 if verdict.clean and verdict.dead == 1 and problem is None else 1


def say(line: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def changes_argument(text: str) -> int:
    """Return the number of changes; too few leave no time for all faults."""
    changes = int(text)
    if changes < _FEWEST_CHANGES:
        raise argparse.ArgumentTypeError(f"at least {_FEWEST_CHANGES}")
    return changes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Random faults while changes flow; nothing may be lost or disordered.")
    parser.add_argument("--seed", type=int, default=1, help="what the faults are drawn from")
    parser.add_argument("--changes", type=changes_argument, default=20_000, help="how many changes are posted")
    arguments = parser.parse_args()
    logging.getLogger("gmqtt").setLevel(logging.CRITICAL)  # it tells of every lost connection, and there are many
    sys.exit(asyncio.run(main(arguments.seed, arguments.changes)))
