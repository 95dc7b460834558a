"""The judge of the outages finds what it is there to find, in answers that are made up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.faults.outage_judge import (
    RECOVERY_SECONDS,
    Answer,
    Outage,
    Phase,
    Verdict,
    Wanted,
    busiest,
    explained,
    judge,
    table,
)
from tests.faults.outage_load import address, number_of
from tests.faults.outages import BURST, Report, clean, summary

LIMIT = 3.0
OUTAGE = Outage("mongodb killed", "mongodb", 10.0, 20.0)
RIGHT = Answer(1, "right", Wanted.ALLOW, Phase.AFTER, 25.0, 0.1, "allow", reason="rule")
NEW = replace(RIGHT, kind="new", needs="mongodb")
WRONG = Answer(2, "wrong", Wanted.NEVER, Phase.DURING, 15.0, 0.1, "deny", reason="wrong_password")
GOOD = [RIGHT, NEW, WRONG]


def verdict_with(*answers: Answer) -> Verdict:
    return judge(OUTAGE, [*GOOD, *answers], LIMIT)


def test_nothing_wrong() -> None:
    """Good answers are clean, also a refusal of what the lost store is needed for, and one of whom nothing is wanted."""
    away = replace(NEW, phase=Phase.DURING, asked_at=15.0, result="deny", reason="store_away")
    verdict = verdict_with(away, replace(RIGHT, wanted=Wanted.EITHER, result="deny"))
    assert (verdict.clean, verdict.recovered_after) == (True, 0.0)


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        ("false_allow", replace(WRONG, result="allow")),
        ("late", replace(WRONG, seconds=LIMIT + 0.1)),
        ("unanswered", replace(WRONG, result="")),
        ("unanswered", replace(WRONG, result="ignore")),
        ("wrongly_refused", replace(RIGHT, phase=Phase.DURING, asked_at=15.0, result="deny", reason="deadline")),
        ("wrongly_refused", replace(NEW, phase=Phase.BEFORE, asked_at=5.0, result="deny", reason="deadline")),
        ("wrongly_refused", replace(RIGHT, phase=Phase.BEFORE, asked_at=5.0, result="deny", reason="store_away")),
        ("slow_store", replace(NEW, phase=Phase.BEFORE, asked_at=5.0, result="deny", reason="store_away")),
        ("unexplained", replace(WRONG, reason="")),
        ("unexplained", replace(WRONG, reason="internal")),
    ],
)
def test_one_that_is_wrong(fault: str, answer: Answer) -> None:
    """One wrong answer among good ones is counted under its name, shown, and makes the whole run fail."""
    verdict = verdict_with(answer)
    assert getattr(verdict, fault) == 1
    assert verdict.examples[0].startswith(f"{fault}: ")
    assert not verdict.clean
    report = Report("name", verdict, [], [])
    assert not clean([report])
    assert f"{fault}=1" in summary([report])


def test_a_slow_store() -> None:
    """Few refusals because a store that is there was slow are the machine's; many are not."""
    slow = replace(NEW, phase=Phase.BEFORE, asked_at=5.0, result="deny", reason="store_away")
    many = [RIGHT] * 200
    assert verdict_with(slow, *many).clean
    assert not verdict_with(slow, slow, slow, *many).clean


def test_recovery() -> None:
    """It counts from the end of the outage to the last refusal; whoever is never allowed again has not recovered."""
    late = replace(NEW, asked_at=22.5, result="deny", reason="store_away")
    assert verdict_with(late).recovered_after == 2.5
    last = replace(NEW, asked_at=26.0, result="deny", reason="store_away")
    assert verdict_with(last).recovered_after == math.inf
    too_late = replace(NEW, asked_at=20.1 + RECOVERY_SECONDS, result="deny", reason="store_away")
    verdict = verdict_with(too_late, replace(NEW, asked_at=50.0), replace(RIGHT, asked_at=50.0))
    assert not verdict.clean
    assert judge(OUTAGE, [WRONG], LIMIT).recovered_after == math.inf
    assert summary([Report("name", verdict, [], [])]).endswith("recovered=0/1")


def test_other_problems() -> None:
    """What is no answer, such as a storm of connections, fails a run too; and so does one without outages."""
    assert clean([Report("name", verdict_with(), [], [])])
    assert not clean([Report("name", verdict_with(), [], ["a storm"])])
    assert not clean([])


def test_reasons_come_from_the_log() -> None:
    """An answer has the reason of its own decision; none if the service noted another verdict, or nothing."""
    noted = {1: ("allow", "own_topic"), 2: ("allow", "rule")}
    assert [one.reason for one in explained([RIGHT, WRONG, replace(WRONG, number=3)], noted)] == ["own_topic", "", ""]


@pytest.mark.parametrize("number", [1, 255, 65_535, 65_536, 1_000_000])
@pytest.mark.parametrize("guesses", [False, True])
def test_addresses(number: int, *, guesses: bool) -> None:
    """A request is found again by where it came from."""
    assert number_of(address(number, guesses=guesses)) == number


def test_busiest() -> None:
    """Attempts are counted between the two moments, per second and in the worst one."""
    assert busiest([9.0, 10.0, 10.5, 11.2, 12.0, 20.0], 10.0, 20.0) == (0.4, 2)
    assert busiest([10 + number / 100 for number in range(BURST + 1)], 10.0, 20.0)[1] == BURST + 1
    assert busiest([], 10.0, 20.0) == (0.0, 0)


def test_table() -> None:
    """Each kind and answer has a line with how many, how slow and how late."""
    _, line = table([WRONG, replace(WRONG, seconds=4.0)], LIMIT)
    assert line.split() == ["wrong", "deny,", "wrong_password", "2", "4000.0", "4000.0", "1"]
