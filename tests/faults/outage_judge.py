"""What was answered around an outage, judged: pure, so that the judge itself can be tried with answers that are made up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import groupby
from typing import Final

RESULTS: Final = frozenset({"allow", "deny"})
RECOVERY_SECONDS: Final = 10.0
"""Within which the hooks allow again what needs the store. The breaker's longest pause is 5 s and a quarter, the driver looks once
a second, and the rest is the machine's."""

SLOW_SHARE: Final = 0.01
"""Of all answers, how many may be refusals because the other store, which was there, did not answer in time: the stand-in for
MongoDB does one thing at a time, on a machine that others use. Nobody whom the service knows may be among them."""

_SHOWN: Final = 5


class Phase(StrEnum):
    """When something was asked."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"


class Wanted(StrEnum):
    """What the answer has to be."""

    ALLOW = "allow"
    NEVER = "never allow"
    EITHER = "either"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `needs` is the store without which an `ALLOW` is more than can be wanted; `result` is empty where none came."""

    number: int
    kind: str
    wanted: Wanted
    phase: Phase
    asked_at: float
    seconds: float
    result: str
    needs: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Outage:
    """One outage, from `began` to `over` (monotonic seconds)."""

    name: str
    store: str
    began: float
    over: float


@dataclass(slots=True)
class Verdict:
    """What was wrong in one outage, by kind of fault; and when all was well again."""

    false_allow: int = 0
    late: int = 0
    unanswered: int = 0
    wrongly_refused: int = 0
    unexplained: int = 0
    slow_store: int = 0
    asked: int = 0
    recovered_after: float = math.inf
    examples: list[str] = field(default_factory=list)

    @property
    def recovered(self) -> bool:
        """Whether what is right is allowed again, soon enough."""
        return self.recovered_after <= RECOVERY_SECONDS

    @property
    def clean(self) -> bool:
        """Whether nothing was wrong."""
        faults = self.false_allow, self.late, self.unanswered, self.wrongly_refused, self.unexplained
        return not any(faults) and self.slow_store <= self.asked * SLOW_SHARE and self.recovered


def explained(answers: Iterable[Answer], decisions: Mapping[int, tuple[str, str]]) -> Sequence[Answer]:
    """Give every answer the reason that the service noted for it; none where its verdict is another one than was answered."""
    found = []
    for answer in answers:
        verdict, reason = decisions.get(answer.number, ("", ""))
        found.append(replace(answer, reason=reason if verdict == answer.result else ""))
    return found


def judge(outage: Outage, answers: Sequence[Answer], limit: float) -> Verdict:
    """Judge the answers around one outage; none may take longer than `limit`."""
    verdict = Verdict(asked=len(answers))
    for answer in answers:
        refused = answer.wanted is Wanted.ALLOW and answer.result == "deny"
        excused = answer.needs == outage.store and answer.phase is not Phase.BEFORE
        slow = refused and not excused and bool(answer.needs) and answer.reason == "store_away"
        wrong = {
            "unanswered": answer.result not in RESULTS,
            "false_allow": answer.wanted is Wanted.NEVER and answer.result == "allow",
            "late": answer.seconds > limit,
            "wrongly_refused": refused and not excused and not slow,
            "slow_store": slow,
            "unexplained": answer.result in RESULTS and answer.reason in {"", "internal"},
        }
        for fault in (name for name, found in wrong.items() if found):
            setattr(verdict, fault, getattr(verdict, fault) + 1)
            if len(verdict.examples) < _SHOWN:
                verdict.examples.append(f"{fault}: {answer}")
    verdict.recovered_after = _recovered_after(outage, answers)
    return verdict


def _recovered_after(outage: Outage, answers: Sequence[Answer]) -> float:
    """Return how long after its end the last was refused that should have been allowed; infinity if nobody was allowed since."""
    right = [one for one in answers if one.wanted is Wanted.ALLOW and one.asked_at > outage.over]
    refused = [one.asked_at for one in right if one.result != "allow"]
    last = max(refused, default=outage.over)
    allowed_since = {one.kind for one in right if one.result == "allow" and one.asked_at > last}
    return last - outage.over if allowed_since >= {one.kind for one in right} and right else math.inf


def table(answers: Iterable[Answer], limit: float) -> Sequence[str]:
    """Return what was asked and what was answered, as lines; times in milliseconds."""
    lines = [f"{'asked':42} {'answered':28} {'count':>6} {'p99 ms':>8} {'slowest':>8} {'late':>5}"]

    def key(answer: Answer) -> tuple[str, str]:
        return answer.kind, f"{answer.result or 'nothing'}, {answer.reason or 'no reason'}"

    for (kind, answered), group in groupby(sorted(answers, key=key), key):
        times = sorted(one.seconds for one in group)
        late = sum(one > limit for one in times)
        p99 = times[len(times) * 99 // 100] * 1000
        lines.append(f"{kind:42} {answered:28} {len(times):6} {p99:8.1f} {times[-1] * 1000:8.1f} {late:5}")
    return lines


def busiest(times: Sequence[float], began: float, over: float) -> tuple[float, int]:
    """Return how many of these moments there were per second from `began` to `over`, and in the busiest second of them."""
    within = sorted(one for one in times if began <= one < over)
    most = max((sum(start <= one < start + 1 for one in within) for start in within), default=0)
    return len(within) / (over - began), most
