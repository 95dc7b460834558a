"""A long run with random faults: `python -m tests.faults.chaos --seed 1 --changes 20000 --profile embedded`.

Which faults come, after how many changes and for how long follows from the seed; the machine's own timing does not. All kinds
that the profile has come at least once. The last line is `lost=… out_of_order=…`; the exit code is 1 unless both are 0, the two
topics that the broker refuses led to two dead changes, and everything came to an end.
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
from tests.faults.servers import PROFILES, Profile
from tests.faults.store_faults import freeze_store, kill_service_without, kill_store
from tests.faults.workload import Lane, Planned, plan, planned
from tests.support.mongo import find_python

_FIRST, _LAST = 0.05, 0.85
_CHANGES_PER_FAULT: Final = 1500
_FEWEST_CHANGES: Final = 2000
_REFUSED: Final = (500, 503)
"""Indices of entities that no plan has: one is posted, one is written to MongoDB where there is one."""

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

STORE_FAULTS: Final[Sequence[tuple[Fault, float]]] = (
    (lambda run, seconds: kill_store(run, "redis", seconds), 2),
    (lambda run, seconds: kill_store(run, "mongo", seconds), 2),
    (lambda run, seconds: freeze_store(run, "redis", seconds), 4),
    (lambda run, seconds: freeze_store(run, "mongo", seconds), 4),
    (lambda run, _: kill_service_without(run, "redis"), 0),
    (lambda run, _: kill_service_without(run, "mongo"), 0),
)
"""The same, where there are stores of their own."""


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


def draw(changes: int, faults: Sequence[tuple[Fault, float]], drawn: random.Random) -> Sequence[Moment]:
    """Return the faults of a run in their order."""
    rounds = max(1, round(changes / _CHANGES_PER_FAULT / len(faults)))
    kinds = [kind for _ in range(rounds) for kind in drawn.sample(faults, len(faults))]
    shares = sorted(drawn.uniform(_FIRST, _LAST) for _ in kinds)
    return [
        Moment(share, fault, drawn.uniform(0, longest)) for share, (fault, longest) in zip(shares, kinds, strict=True)
    ]


def with_refused(lane: Lane, refused: Planned, drawn: random.Random) -> Lane:
    """Return the lane with one more change somewhere."""
    place = drawn.randrange(len(lane))
    return [*lane[:place], refused, *lane[place:]]


async def rage(run: House, moments: Sequence[Moment]) -> str | None:
    """Let everything happen and wait for the end; return what went wrong, if anything."""
    try:
        for moment in moments:
            await run.reach(moment.share)
            await moment.fault(run, moment.seconds)
            say(f"{run.hits[-1].fault} at {run.hits[-1].taken}")
        await run.settle()
        await run.check_hits()
    except AssertionError as problem:
        return f"{problem}\n{run.service.log[-4000:]}"
    return None


async def main(seed: int, changes: int, profile: Profile) -> int:
    """Run once; return the exit code."""
    drawn = random.Random(seed)  # noqa: S311 - repeatable, and no secret
    refused = [planned(index, 1) for index in _REFUSED]
    first, *others, last = plan(changes - len(refused), shared=False, seed=seed)
    lanes = [with_refused(first, refused[0], drawn), *others, with_refused(last, refused[1], drawn)]
    moments = draw(changes, FAULTS if profile == "embedded" else [*FAULTS, *STORE_FAULTS], drawn)
    broker = MortalBroker(denied=[change.topics[0] for change in refused])
    settings = {"publisher_attempts": 4, "shutdown_deadline": 1}
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        async with house(Path(folder), lanes, broker, profile=profile, **settings) as run:
            problem = await rage(run, moments)
            verdict = await run.verdict()
            say(run.summary(f"chaos seed={seed} profile={profile}", verdict))
    for line in (*verdict.examples, *([problem] if problem else [])):
        say(line)
    say(f"lost={verdict.lost} out_of_order={verdict.out_of_order}")
    return 0 if verdict.clean and verdict.dead == len(refused) and problem is None else 1


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
    parser.add_argument("--profile", choices=PROFILES, default="embedded", help="which stores the service has")
    arguments = parser.parse_args()
    if arguments.profile == "production" and find_python() is None:
        parser.error(
            "the production profile needs a Python 3.13 for the stand-in of MongoDB, on the PATH or from pyenv"
        )
    logging.getLogger("gmqtt").setLevel(logging.CRITICAL)  # it tells of every lost connection, and there are many
    sys.exit(asyncio.run(main(arguments.seed, arguments.changes, arguments.profile)))
