"""Records become series of points between two days."""

from __future__ import annotations

import datetime as dt

import pytest

from companion.cli.stats import bar
from companion.core.errors import Invalid
from companion.core.stats import Calendar, Slot, stats
from companion.core.stats_view import Asked, asked, series, shown

TODAY = dt.date(2026, 3, 5)
ADDED = {
    Slot("o", "K", "", 2026, 1, 31, 23): 1,
    Slot("o", "K", "", 2026, 2, 1, 0): 2,
    Slot("o", "K", "", 2026, 2, 28, 12): 4,
    Slot("o", "K", "actor", 2026, 2, 1, 0): 8,
    Slot("o", "J", "", 2027, 1, 1, 0): 16,
}


def points(of: Asked) -> dict[tuple[str, str], dict[str, int]]:
    """Return what is not nothing, and see that all points are there in order."""
    found = series(stats(ADDED, of.calendar), of)
    for one in found:
        times = [when for when, _ in one.points]
        assert times == sorted(set(times))
    return {(one.key, one.flag): {when: value for when, value in one.points if value} for one in found}


def test_by_hour() -> None:
    """Every hour of the days, and nothing of the others."""
    of = asked({"owner": "o", "from": "2026-01-31", "to": "2026-02-01"}, TODAY)
    assert of == Asked("o", dt.date(2026, 1, 31), dt.date(2026, 2, 1), Calendar.DAILY)
    found = points(of)
    assert found["K", ""] == {"2026-01-31 23:00": 1, "2026-02-01 00:00": 2}
    assert found["K", "actor"] == {"2026-02-01 00:00": 8}
    assert len(series(stats(ADDED, of.calendar), of)[0].points) == 48


def test_by_day() -> None:
    """Every day between the two, over the end of a month; days before and after are in the record, and not here."""
    of = asked({"owner": "o", "from": "2026-02-01", "to": "2026-02-27", "by": "day"}, TODAY)
    assert points(of)["K", ""] == {"2026-02-01": 2}
    of = asked({"owner": "o", "from": "2026-01-31", "to": "2026-03-05"}, TODAY)
    assert of.by == "day"
    assert points(of)["K", ""] == {"2026-01-31": 1, "2026-02-01": 2, "2026-02-28": 4}
    assert len(series(stats(ADDED, of.calendar), of)[0].points) == 34


def test_by_month() -> None:
    """Every month that the days touch, over the end of a year."""
    of = asked({"owner": "o", "from": "2026-01-31", "to": "2027-01-01"}, TODAY)
    assert points(of) == {
        ("J", ""): {"2027-01": 16},
        ("K", ""): {"2026-01": 1, "2026-02": 6},
        ("K", "actor"): {"2026-02": 8},
    }
    assert [when for when, _ in series(stats(ADDED, of.calendar), of)[0].points] == [
        *(f"2026-{month:02}" for month in range(1, 13)),
        "2027-01",
    ]


def test_as_json() -> None:
    """What was asked for, and a total and points for each key and flag."""
    of = asked({"owner": "o", "from": "2026-02-28", "to": "2026-03-01", "by": "day", "flag": "", "key": "K"}, TODAY)
    assert (of.key, of.flag) == ("K", "")
    found = shown(series([one for one in stats(ADDED, of.calendar) if one.bucket.flag == ""], of)[-1:], of)
    assert found == {
        "owner": "o",
        "from": "2026-02-28",
        "to": "2026-03-01",
        "by": "day",
        "series": [
            {
                "key": "K",
                "flag": "",
                "total": 4,
                "points": [{"at": "2026-02-28", "value": 4}, {"at": "2026-03-01", "value": 0}],
            }
        ],
    }


def test_today_by_default() -> None:
    """Without days, today by hour; with one day, from there to today or that day alone."""
    assert asked({"owner": ""}, TODAY) == Asked("", TODAY, TODAY, Calendar.DAILY)
    assert asked({"owner": "o", "from": "2026-01-01"}, TODAY).last == TODAY
    assert asked({"owner": "o", "to": "2026-01-01"}, TODAY).first == dt.date(2026, 1, 1)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "owner"),
        ({"owner": "o", "from": "yesterday"}, "from"),
        ({"owner": "o", "to": "2026-02-30"}, "to"),
        ({"owner": "o", "from": "2026-03-06"}, "from"),
        ({"owner": "o", "by": "week"}, "by"),
        ({"owner": "o", "from": "2026-01-01", "by": "hour"}, "by"),
        ({"owner": "o", "from": "2020-01-01", "by": "day"}, "by"),
    ],
)
def test_what_is_refused(fields: dict[str, str], field: str) -> None:
    """Wrong days and steps, and more points than anybody reads, are refused by name."""
    with pytest.raises(Invalid) as problem:
        asked(fields, TODAY)
    assert problem.value.field == field


def test_the_ends_of_the_calendar() -> None:
    """The last day that there is can be asked for."""
    assert points(asked({"owner": "o", "from": "9999-12-30", "to": "9999-12-31"}, TODAY))["K", ""] == {}


def test_bars() -> None:
    """The most fills the width, half of it half; something is never nothing, and nothing and less have no bar."""
    assert [bar(value, 8, 2) for value in (8, 4, 5, 1, 0, -3)] == ["██", "█", "█▎", "▎", "", ""]
    assert bar(1, 10**9, 2) == "▏"
    assert bar(0, 0) == ""
