"""Time windows against a model that looks at every minute, and by name."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.cron import fields_of
from companion.core.errors import Invalid
from companion.core.windows import Schedule, Window, schedule_of, window_of, windows_of
from tests.support import clockface
from tests.support.hypo import any_text, examples, many_examples

DAY = 86_400
FROM, TO = (int(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp()) for year in (2026, 2029))
CHANGES = [
    int(dt.datetime.fromisoformat(text).timestamp())
    for text in (
        "2026-03-29T01:00:00+00:00",
        "2026-10-25T01:00:00+00:00",
        "2026-03-08T07:00:00+00:00",
        "2026-11-01T06:00:00+00:00",
        "2026-10-03T15:30:00+00:00",
        "2027-04-03T15:00:00+00:00",
        "2026-03-08T05:00:00+00:00",
        "2026-11-01T05:00:00+00:00",
    )
]
"""When clocks are put forward and back in Berlin, in New York, on Lord Howe (by half an hour) and in Havana (at midnight)."""

WINDOWS = st.builds(
    Window,
    st.sampled_from(clockface.LINES),
    st.sampled_from(clockface.DURATIONS),
    st.sampled_from(clockface.ZONES),
)
TIMES = st.one_of(st.integers(FROM, TO), st.builds(int.__add__, st.sampled_from(CHANGES), st.integers(-7200, DAY)))


def at(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


@pytest.mark.timeout(3600)
@many_examples(500)
@given(WINDOWS, TIMES)
def test_open_and_closed(window: Window, moment: int) -> None:
    """Whether a window is open is what every single minute says, also where a clock shows an hour twice or not at all."""
    assert schedule_of(window).is_open(moment) is clockface.is_open(window, moment)


@examples(300)
@given(WINDOWS, TIMES, st.lists(st.floats(0, 1, exclude_max=True), max_size=4))
def test_certain_until(window: Window, moment: int, shares: list[float]) -> None:
    """Nothing changes before the time that is told; it is later than the question, and asking there goes on."""
    schedule = schedule_of(window)
    until = schedule.certain_until(moment)
    assert until > moment
    end = min(until, moment + 400 * DAY)
    for share in shares:
        between = moment + int((end - moment) * share)
        assert clockface.is_open(window, between) is schedule.is_open(moment)
    if until < math.inf:
        assert schedule.is_open(until) is clockface.is_open(window, int(until))


@examples(150)
@given(WINDOWS, st.lists(TIMES, min_size=2, max_size=10))
def test_what_is_remembered_changes_nothing(window: Window, moments: list[int]) -> None:
    """The answer does not depend on what was asked before."""
    new = {
        moment: Schedule(dict(fields_of(window.cron)), window.duration, ZoneInfo(window.timezone)) for moment in moments
    }
    asked = schedule_of(window)
    first = {moment: asked.is_open(moment) for moment in moments}
    assert first == {moment: one.is_open(moment) for moment, one in new.items()}
    assert first == {moment: asked.is_open(moment) for moment in moments}


def test_the_ends() -> None:
    """A window holds its first moment and not the one at its end; fractions of a second count."""
    schedule = schedule_of(Window("0 8 * * mon-fri", 10 * 3600, "Europe/Berlin"))
    assert not schedule.is_open(at("2026-11-25T07:59:59.999+01:00"))
    assert schedule.is_open(at("2026-11-25T08:00:00+01:00"))
    assert schedule.is_open(at("2026-11-25T17:59:59.999+01:00"))
    assert not schedule.is_open(at("2026-11-25T18:00:00+01:00"))
    assert not schedule.is_open(at("2026-11-28T12:00:00+01:00"))
    assert schedule.certain_until(at("2026-11-25T08:00:00+01:00")) == at("2026-11-25T18:00:00+01:00")
    assert schedule.certain_until(at("2026-11-27T18:00:00+01:00")) == at("2026-11-30T08:00:00+01:00")


def test_windows_that_touch_are_one() -> None:
    """Every hour for an hour is always; every second from seven on for nine hours ends nine hours after the last of them."""
    always = schedule_of(Window("0 * * * *", 3600))
    assert always.is_open(FROM)
    assert always.certain_until(FROM) > FROM + 300 * DAY
    # The platform writes lines with seconds.
    morning = schedule_of(Window("* * 7 * * *", 9 * 3600))
    assert not morning.is_open(at("2026-11-25T06:59:59+00:00"))
    assert morning.certain_until(at("2026-11-25T07:00:00+00:00")) == at("2026-11-25T16:59:59+00:00")
    assert not morning.is_open(at("2026-11-25T16:59:59+00:00"))


@pytest.mark.parametrize(
    ("line", "duration", "open_for"),
    [
        ("* * * * * *", 1, 300 * DAY),
        ("* * * * *", 60, 300 * DAY),
        ("*/15 * * * *", 900, 300 * DAY),
        ("10,50 * * * *", 2400, 300 * DAY),
        ("10,50 * * * *", 2399, 2399),
        ("*/15 * * * *", 899, 899),
        ("*/20 * * * * *", 20, 300 * DAY),
        ("*/20 * * * * *", 19, 19),
    ],
)
def test_what_is_always_open(line: str, duration: int, open_for: int) -> None:
    """A line that leaves no gap is certain for a long time; a second less, and it has one."""
    schedule = schedule_of(Window(line, duration))
    begun = schedule.next_after(FROM)
    assert begun is not None
    until = schedule.certain_until(begun)
    assert until >= begun + open_for
    assert open_for > DAY or until == begun + open_for


def test_always_open_until_clocks_change() -> None:
    """Where clocks go back by half an hour, a line of every hour has a gap once a year; up to there it is certain."""
    schedule = schedule_of(Window("0 * * * *", 3600, "Australia/Lord_Howe"))
    change = at("2027-04-03T15:00:00+00:00")
    assert schedule.certain_until(at("2027-03-01T00:00:00+00:00")) == change
    assert schedule.is_open(change - 1)
    assert schedule.certain_until(change) == change + 1800
    assert not schedule.is_open(change)


@pytest.mark.parametrize("line", ["30 2 * * *", "*/10 2 * * *", "0 2 * * sun"])
def test_a_time_that_clocks_leave_out(line: str) -> None:
    """What would begin between two and three when clocks go from two to three begins at that moment."""
    schedule = schedule_of(Window(line, 600, "Europe/Berlin"))
    assert not schedule.is_open(at("2026-03-29T00:59:59+00:00"))
    assert schedule.is_open(at("2026-03-29T01:00:00+00:00"))
    assert schedule.is_open(at("2026-03-29T01:09:59+00:00"))
    assert not schedule.is_open(at("2026-03-29T01:10:00+00:00"))


def test_the_end_of_time() -> None:
    """Neither very early nor very late times are an error."""
    schedule = schedule_of(Window("0 8 * * *", 3600))
    for moment in (-1e18, -62_135_596_800.0, 253_402_300_799.0, 1e18):
        assert not schedule.is_open(moment)
        assert schedule.certain_until(moment) > moment


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("* * * * * * *", "five fields"),
        ("0 8 1 * mon", "not both"),
        ("60 * * * *", "cron line"),
        ("* 24 * * *", "cron line"),
        ("* * 0 * *", "cron line"),
        ("* * * 13 *", "cron line"),
        ("* * * * 8", "cron line"),
        ("* * * * */0", "cron line"),
        ("a * * * *", "cron line"),
        ("*/x * * * *", "cron line"),
        ("0 0 30 2 *", "a time that comes"),
        ("0 " * 120, "200 characters"),
    ],
)
def test_lines_that_are_none(line: str, what: str) -> None:
    """A line that says nothing clear, or a time that never comes, is refused, as often as it is asked about."""
    for _ in range(2):
        with pytest.raises(Invalid, match=what) as caught:
            schedule_of(Window(line, 60))
        assert caught.value.field == "cron"


@examples(400)
@given(
    st.lists(st.text(st.sampled_from("0123456789*/-,?aeirsuln"), min_size=1, max_size=6), min_size=4, max_size=7).map(
        " ".join
    )
    | any_text(),
    TIMES,
)
def test_any_text_is_a_line_or_a_mistake(line: str, moment: int) -> None:
    """Nothing that could stand for a cron line raises anything else."""
    with contextlib.suppress(Invalid):
        schedule = schedule_of(Window(line, 3600))
        assert schedule.certain_until(moment) > moment


@pytest.mark.parametrize(
    ("line", "day"), [("0 0 * * 0", 29), ("0 0 * * 7", 29), ("0 0 * * sun", 29), ("0 0 * * */6", 28)]
)
def test_days_are_those_of_cron(line: str, day: int) -> None:
    """0 and 7 are Sunday, and steps begin there."""
    assert schedule_of(Window(line, 60)).next_after(at("2026-11-27T12:00:00+00:00")) == at(
        f"2026-11-{day}T00:00:00+00:00"
    )


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("0 8 * * *", "windows[0].window"),
        ({"duration": 60}, "windows[0].cron"),
        ({"cron": 5, "duration": 60}, "windows[0].cron"),
        ({"cron": "0 8 * * *"}, "windows[0].duration"),
        ({"cron": "0 8 * * *", "duration": "60"}, "windows[0].duration"),
        ({"cron": "0 8 * * *", "duration": True}, "windows[0].duration"),
        ({"cron": "0 8 * * *", "duration": 1.5}, "windows[0].duration"),
        ({"cron": "0 8 * * *", "duration": -1}, "windows[0].duration"),
        ({"cron": "0 8 * * *", "duration": 60, "timezone": 1}, "windows[0].timezone"),
        ({"cron": "0 8 * * *", "duration": 60, "timezone": "../../etc"}, "windows[0].timezone"),
        ({"cron": "0 8 * * *", "duration": 60, "zone": "UTC"}, "windows[0].zone"),
    ],
)
def test_tables_that_are_no_windows(value: Any, field: str) -> None:
    """What is wrong is named with its place in the list."""
    with pytest.raises(Invalid) as caught:
        windows_of([value])
    assert caught.value.field == field


def test_tables_of_windows() -> None:
    """A time zone may be missing, a whole number may be written as a float."""
    assert window_of({"cron": "0 8 * * *", "duration": 60.0}) == Window("0 8 * * *", 60, "UTC")
    with pytest.raises(Invalid, match="windows"):
        windows_of("0 8 * * *")
