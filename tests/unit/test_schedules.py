"""When jobs are due: cron lines, intervals, what was missed."""

from __future__ import annotations

import asyncio
import datetime as dt
import time

import pytest
from pydantic import ValidationError

from companion.background import background
from companion.core.cron import days_of_week
from companion.core.errors import Invalid
from companion.job_settings import JobSettings
from maintenance.clockwork import Clockwork, last_due, next_due, trigger_of
from tests.support.waiting import wait_until

MONDAY = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("*", "*"),
        ("*/2", "*/2"),
        ("0", "sun"),
        ("7", "sun"),
        ("1-5", "mon,tue,wed,thu,fri"),
        ("fri-mon", "fri,sat,sun,mon"),
        ("5-7", "fri,sat,sun"),
        ("0-6/2", "sun,tue,thu,sat"),
        ("Mon,3,3", "mon,wed"),
    ],
)
def test_days_of_the_week(field: str, days: str) -> None:
    """As in every other cron, 0 and 7 are Sunday."""
    assert days_of_week(field) == days


@pytest.mark.parametrize("field", ["8", "x", "", "1-", "-1", "mon-x", "1,,2"])
def test_days_that_are_none(field: str) -> None:
    """They are refused, also as part of a schedule."""
    with pytest.raises(ValueError, match=r".*"):
        days_of_week(field)
    with pytest.raises(Invalid, match="a cron line"):
        trigger_of("x", JobSettings.model_construct(cron=f"0 0 * * {field or '?'}"))


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        (JobSettings(cron="30 3 * * 0"), "2026-11-29T03:30:00+00:00"),
        (JobSettings(cron="30 3 * * *", timezone="Europe/Berlin"), "2026-11-23T02:30:00+00:00"),
        (JobSettings(every=300), "2026-11-23T00:00:00+00:00"),
        (JobSettings(every=7), "2026-11-23T00:00:04+00:00"),
        (JobSettings(), None),
    ],
)
def test_the_next_time(schedule: JobSettings, due: str | None) -> None:
    """In the zone of the schedule; intervals are counted from the same moment in every process."""
    found = next_due("x", schedule, MONDAY.timestamp())
    assert found == (None if due is None else dt.datetime.fromisoformat(due).timestamp())


def test_through_a_change_of_the_clocks() -> None:
    """In the night when the clocks go forward, what is due in the missing hour comes an hour later, and only once."""
    schedule = JobSettings(cron="30 2 * * *", timezone="Europe/Berlin")
    trigger, at, found = trigger_of("x", schedule), dt.datetime(2026, 3, 28, 12, tzinfo=dt.UTC), []
    for _ in range(2):
        at = trigger.get_next_fire_time(None, at)
        found.append(at.astimezone(dt.UTC).isoformat())
        at += dt.timedelta(seconds=1)
    assert found == ["2026-03-29T01:30:00+00:00", "2026-03-30T00:30:00+00:00"]


def test_what_was_missed() -> None:
    """The last tick before now counts, unless its grace is over."""
    now = MONDAY + dt.timedelta(minutes=10)
    daily = trigger_of("x", JobSettings(cron="0 0 * * *"))
    assert last_due(daily, now, 3600) == MONDAY
    assert last_due(daily, now, 60) is None
    assert last_due(daily, now, 3 * 86_400) == MONDAY
    often = trigger_of("x", JobSettings(every=0.5))
    assert last_due(often, now + dt.timedelta(seconds=0.2), 86_400) == now


@pytest.mark.parametrize(
    "values",
    [
        {"cron": "* * *"},
        {"cron": "* * * * *", "every": 5},
        {"every": 0},
        {"timezone": "Mars/Olympus"},
        {"timezone": "../etc/passwd"},
        {"attempts": 0},
        {"growth": 0.5},
        {"colour": 1},
    ],
)
def test_settings_that_are_none(values: dict[str, object]) -> None:
    """They are refused."""
    with pytest.raises(ValidationError):
        JobSettings.model_validate(values)


def test_waiting_between_attempts() -> None:
    """Always the same, or longer each time."""
    assert [JobSettings(backoff=10, growth=1).wait(n) for n in (1, 2, 3)] == [10, 10, 10]
    assert [JobSettings(backoff=10, growth=3).wait(n) for n in (1, 2, 3)] == [10, 30, 90]


async def test_ticking() -> None:
    """Every job with a schedule ticks at its times; at the start what was just missed is told."""
    ticks: list[tuple[str, int]] = []

    async def tick(name: str, due_at: int) -> None:
        ticks.append((name, due_at))

    begun = time.time()
    schedules = {
        "often": JobSettings(every=0.2),
        "jittered": JobSettings(every=0.5, jitter=0.1),
        "never": JobSettings(),
    }
    async with background(Clockwork(schedules, tick).run()):
        await wait_until(lambda: len(ticks) >= 12, 20, "it ticks")
    often = [due_at for name, due_at in ticks if name == "often"]
    assert often == sorted(set(often))
    assert all(due_at % 200 == 0 for due_at in often)
    assert often[0] / 1000 <= begun
    assert {name for name, _ in ticks} == {"often", "jittered"}
    assert all(due_at % 500 == 0 for name, due_at in ticks if name == "jittered")


async def test_slow_listeners_miss_no_tick() -> None:
    """While one tick is being told, others are kept."""
    ticks: list[int] = []

    async def tick(_: str, due_at: int) -> None:
        if not ticks:
            await asyncio.sleep(0.5)
        ticks.append(due_at)

    async with background(Clockwork({"often": JobSettings(every=0.1)}, tick).run()):
        await wait_until(lambda: len(ticks) >= 6, 20, "it ticks")
    assert ticks[:6] == list(range(ticks[0], ticks[0] + 600, 100))
