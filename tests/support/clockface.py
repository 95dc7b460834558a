"""An independent model of time windows: every second is looked at on its own, as on the face of a clock in its time zone.

`is_open(window, at)` walks back from `at` over the duration and asks of each second in which a window could have begun whether the
line names it. Only lines of `LINES` are understood: minutes, hours, days and months as `*`, `*/n`, numbers, ranges and lists of
them, days of the week also by name.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from itertools import product
from zoneinfo import ZoneInfo

from companion.core.windows import Window

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Havana")
LINES = tuple(
    f"{minute} {hour} {day} {month} {weekday}"
    for minute, hour, (day, month, weekday) in product(
        ("0", "30", "*/15", "*", "10-20,50"),
        ("*", "8", "0,12", "22-23", "*/6", "2"),
        (
            ("*", "*", "*"),
            ("*", "*", "mon-fri"),
            ("*", "*", "0,6"),
            ("1", "*", "*"),
            ("31", "1,3,10", "*"),
            ("*", "11", "7"),
        ),
    )
)
DURATIONS = (60, 600, 900, 3600, 5400, 36_000, 86_400, 100_000)
_NAMES = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def _numbers(field: str, first: int, last: int) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        body, _, step = part.partition("/")
        if body == "*":
            low, high = first, last
        else:
            ends = [_NAMES[end] if end in _NAMES else int(end) for end in body.split("-")]
            low, high = ends[0], ends[-1]
        found |= set(range(low, high + 1, int(step or 1)))
    return found


def is_open(window: Window, at: int) -> bool:
    """Tell whether the window is open."""
    named = [_numbers(field, *limits) for field, limits in zip(window.cron.split(), _RANGES, strict=True)]
    zone = ZoneInfo(window.timezone)
    # All zones of ours are whole minutes from UTC, so that windows begin with whole minutes of it.
    minute = at // 60 * 60
    while minute > at - window.duration:
        if any(_names(named, wall) for wall in _shown(minute, zone)):
            return True
        minute -= 60
    return False


def _shown(minute: int, zone: ZoneInfo) -> Iterator[dt.datetime]:
    """Yield what clocks show in this minute, and what they have left out since the one before."""
    wall = dt.datetime.fromtimestamp(minute, zone).replace(tzinfo=None)
    last = dt.datetime.fromtimestamp(minute - 60, zone).replace(tzinfo=None)
    yield wall
    while wall - last > dt.timedelta(minutes=1):
        wall -= dt.timedelta(minutes=1)
        yield wall


def _names(named: Sequence[set[int]], wall: dt.datetime) -> bool:
    minutes, hours, days, months, weekdays = named
    weekday = wall.isoweekday()
    return (
        wall.minute in minutes
        and wall.hour in hours
        and wall.day in days
        and wall.month in months
        and (weekday in weekdays or (weekday == 7 and 0 in weekdays))
    )
