"""Outages under load: `python -m tests.faults.outages --seconds 30 --rate 200`.

Redis and MongoDB are killed and come back, and disappear in a black hole and come back, while the hooks are asked at a steady rate.
What was asked and what was answered is shown for the time before, during and after each. The last line is
`false_allow=… late=… unanswered=… …`; the exit code is 1 unless nothing was wrong.

Passwords are hashed at bcrypt's lowest cost, or they would be all that is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from companion.background import background
from tests.faults.outage_house import DEADLINE, House, outage_house
from tests.faults.outage_judge import Outage, Phase, Verdict, Wanted, busiest, explained, judge, table
from tests.faults.outage_load import Load, Watched
from tests.support.eventually import eventually

ALLOWANCE: Final = 0.5
"""What a busy machine may add to an answer between the handler and our clock, in seconds."""

LIMIT: Final = DEADLINE + ALLOWANCE
ATTEMPTS_PER_SECOND: Final = 5.0
BURST: Final = 50
"""Connections that may be tried at a proxy: on average, and in the worst second. What was under way when it began may need one each
(three failures open the breaker, but they asked before that); then there are one probe at a time, the driver's own look once a
second, and the followers of notices."""

_PATIENCE: Final = 30.0
_WRITTEN_SECONDS: Final = 120.0
"""For the audit records of an outage: thousands, of which the stand-in for MongoDB takes a few hundred a second at best."""

_CALM_SECONDS: Final = 1.5
_RECENT: Final = 1000


@dataclass(frozen=True, slots=True)
class Report:
    """One outage: what was wrong, the lines to show, and what else has to hold."""

    name: str
    verdict: Verdict
    lines: Sequence[str]
    problems: Sequence[str]


@dataclass(slots=True)
class Cast:
    """Whom is looked at in one outage.

    `told`: disabled just before it, and the word has arrived. `written`: disabled during it in MongoDB itself, while Redis or the
    change stream is cut. `announced`: the same, and another replica tells of it in Redis.
    """

    told: Watched
    written: Watched
    announced: Watched

    @classmethod
    def of(cls, number: int) -> Cast:
        return cls(
            Watched(f"told-{number}", "disabled just before"),
            Watched(f"written-{number}", "disabled in the store during it"),
            Watched(f"announced-{number}", "disabled and announced during it"),
        )

    @property
    def all(self) -> Sequence[Watched]:
        return self.told, self.written, self.announced


async def outage(house: House, name: str, cast: Cast, *, before: float, seconds: float, rate: float) -> Report:
    """Let one outage happen under load, and judge what was answered."""
    store, begin, end = house.faults()[name]
    load = Load(house.hooks, house.http, rate, house.numbers)
    audits = await house.audits()
    load.watched = cast.all
    lines: list[str] = []
    problems: list[str] = []
    await load.warm_up(cast.all)
    async with load.running():
        await asyncio.sleep(before)
        await _felt(house, load, cast.told)
        load.phase = Phase.DURING
        house.health.missed.clear()
        began = time.monotonic()
        await begin()
        await asyncio.sleep(seconds / 3)
        lines += await _meanwhile(house, load, name, cast)
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
        if house.health.missed != {store}:
            problems.append(f"/readyz named {sorted(house.health.missed)}")
        await end()
        over = time.monotonic()
        load.phase = Phase.AFTER
        lines += await _recovery(house, load, cast, over)
        ready_after = time.monotonic() - over
    lines.append(await _audited(house, audits + load.audited(), over))
    problems += [f"the operations port: {one}" for one in house.health.dead] + house.errors()
    mean, most = busiest(house.proxies[store].accepted_at, began, over)
    lines.append(f"connections tried at {store}: {mean:.1f} per second, {most} in the busiest")
    if mean > ATTEMPTS_PER_SECOND or most > BURST:
        problems.append(lines[-1])
    answers = explained(load.answers, house.decisions())
    verdict = judge(Outage(name, store, began, over), answers, LIMIT)
    lines.append(f"allowed again after {verdict.recovered_after:.1f} s, all calm and ready after {ready_after:.1f} s")
    for phase in Phase:
        lines += ["", f"{name}: {phase.value}", *table((one for one in answers if one.phase is phase), LIMIT)]
    return Report(name, verdict, lines, problems)


async def _felt(house: House, load: Load, one: Watched, *, announced: bool = False) -> float:
    """Disable an account in MongoDB; return after how many seconds it is refused. From then on it must never be allowed."""
    one.wanted = Wanted.EITHER
    await house.disable(one.name)
    if announced:
        await house.announce(one.name)
    return await _refused(load, one)


async def _refused(load: Load, one: Watched) -> float:
    begun = time.monotonic()

    async def refused() -> bool:
        return not await load.may_still(one.name)

    await eventually(refused, _PATIENCE, f"{one.name} is refused")
    one.wanted = Wanted.NEVER
    return time.monotonic() - begun


async def _meanwhile(house: House, load: Load, name: str, cast: Cast) -> Sequence[str]:
    """Change something in the store while the outage lasts, where that is possible."""
    if name == "mongodb killed":
        return ["nobody can disable an account while MongoDB is dead"]
    if name == "mongodb in a black hole":
        cast.written.wanted = Wanted.EITHER
        await house.disable(cast.written.name)
        seconds = await _felt(house, load, cast.announced, announced=True)
        still = await load.may_still(cast.written.name)
        return [
            f"disabled in MongoDB and announced over Redis: refused after {seconds:.2f} s",
            f"disabled in MongoDB, and no way to hear of it: {'still allowed' if still else 'refused'} (cache_stale)",
        ]
    return [f"disabled in MongoDB, no Redis: refused after {await _felt(house, load, cast.written):.2f} s"]


async def _recovery(house: House, load: Load, cast: Cast, over: float) -> Sequence[str]:
    """Return when everything is as it was, and has been for a moment."""
    lines = []
    if cast.written.wanted is Wanted.EITHER:
        await _refused(load, cast.written)
        lines.append(
            f"disabled in MongoDB, and no way to hear of it: refused {time.monotonic() - over:.2f} s after the end"
        )

    async def calm() -> bool:
        since = max(over, time.monotonic() - _CALM_SECONDS)
        recent = [one for one in load.answers[-_RECENT:] if one.asked_at >= since and one.wanted is Wanted.ALLOW]
        waited = time.monotonic() - over >= _CALM_SECONDS
        return house.health.ready and waited and all(one.result == "allow" for one in recent)

    await eventually(calm, _PATIENCE, f"everything is ready again ({house.health})")
    return lines


async def _audited(house: House, count: int, over: float) -> str:
    """Return when everything that was decided meanwhile is on record."""

    async def written() -> bool:
        return await house.audits() >= count

    await eventually(written, _WRITTEN_SECONDS, f"{count} audit records are written")
    return f"every login and refusal is on record {time.monotonic() - over:.1f} s after the end"


async def outages(folder: Path, *, before: float, seconds: float, rate: float) -> Sequence[Report]:
    """Let all outages happen to one life of the service."""
    async with outage_house(folder) as house:
        names = list(house.faults())
        casts = [Cast.of(number) for number in range(len(names))]
        await house.populate([one.name for cast in casts for one in cast.all])
        async with background(house.look()):
            await eventually(house.is_ready, what="everything is ready")
            reports = []
            for name, cast in zip(names, casts, strict=True):
                reports.append(await outage(house, name, cast, before=before, seconds=seconds, rate=rate))
                say(f"\n===== {name} for {seconds:g} s, {rate:g} asked per second =====", *reports[-1].lines)
        assert await house.service.terminate() == 0
    return reports


def summary(reports: Sequence[Report]) -> str:
    """Return one line about everything, for machines."""
    names = "false_allow", "late", "unanswered", "wrongly_refused", "unexplained", "slow_store"
    counts = " ".join(f"{name}={sum(getattr(one.verdict, name) for one in reports)}" for name in names)
    recovered = sum(one.verdict.recovered for one in reports)
    return f"{counts} problems={sum(len(one.problems) for one in reports)} recovered={recovered}/{len(reports)}"


def say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def clean(reports: Sequence[Report]) -> bool:
    """Tell whether nothing was wrong."""
    return bool(reports) and all(one.verdict.clean and not one.problems for one in reports)


async def main(seconds: float, rate: float) -> int:
    """Run once; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="outages-") as folder:
        reports = await outages(Path(folder), before=5.0, seconds=seconds, rate=rate)
    for report in reports:
        say(*(f"{report.name}: {line}" for line in (*report.verdict.examples, *report.problems)))
    say("", summary(reports))
    return 0 if clean(reports) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Outages of the stores under load; nobody may be let in wrongly.")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each outage lasts")
    parser.add_argument("--rate", type=float, default=200.0, help="how many decisions are asked for per second")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.seconds, arguments.rate)))
