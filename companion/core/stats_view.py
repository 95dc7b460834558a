"""Statistics for people and programs: records as series of points between two days. Pure."""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.stats import Calendar, Stat

STEPS: Final[Mapping[str, Calendar]] = {"hour": Calendar.DAILY, "day": Calendar.MONTHLY, "month": Calendar.YEARLY}
_MOST_DAYS: Final = {Calendar.DAILY: 31, Calendar.MONTHLY: 731, Calendar.YEARLY: 36_600}
_HOURS_UP_TO: Final = 2
_DAYS_UP_TO: Final = 92


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to see. Without a key or a flag, all of them."""

    owner: str
    first: dt.date
    last: dt.date
    calendar: Calendar
    key: str | None = None
    flag: str | None = None

    @property
    def by(self) -> str:
        """The step between two points."""
        return next(name for name, one in STEPS.items() if one is self.calendar)


@dataclass(frozen=True, slots=True)
class Series:
    """The points of a key: when, in the owner's time (`2026-01-31 13:00`, `2026-01-31`, `2026-01`), and how much."""

    key: str
    flag: str
    points: Sequence[tuple[str, int]]

    @property
    def total(self) -> int:
        """The sum of all points."""
        return sum(value for _, value in self.points)


def asked(fields: Mapping[str, str | None], today: dt.date) -> Asked:
    """Read `owner`, `key`, `flag`, `from`, `to` (days; by default today) and `by`. Raises `Invalid` naming what is wrong."""
    owner = fields.get("owner")
    if owner is None:
        raise Invalid("owner", "nothing", "whose statistics; empty for what belongs to nobody")
    last = _day("to", fields.get("to"), today)
    first = _day("from", fields.get("from"), last)
    if first > last:
        raise Invalid("from", first.isoformat(), f"a day up to {last.isoformat()}")
    days, step = (last - first).days + 1, fields.get("by")
    if step is None:
        step = "hour" if days <= _HOURS_UP_TO else "day" if days <= _DAYS_UP_TO else "month"
    if step not in STEPS:
        raise Invalid("by", step, f"one of {', '.join(STEPS)}")
    if days > _MOST_DAYS[STEPS[step]]:
        raise Invalid("by", step, f"at most {_MOST_DAYS[STEPS[step]]} days by {step}; these are {days}")
    return Asked(owner, first, last, STEPS[step], fields.get("key"), fields.get("flag"))


def series(stats: Sequence[Stat], of: Asked) -> Sequence[Series]:
    """Return a series for each key and flag, with a point for every step of the time, also where nothing was counted."""
    times = dict(_times(of))
    found: dict[tuple[str, str], dict[str, int]] = {}
    for stat in stats:
        points = found.setdefault((stat.bucket.key, stat.bucket.flag), dict.fromkeys(times.values(), 0))
        for place, value in enumerate(stat.values):
            when = times.get((*stat.bucket[4:], place))
            if when is not None:
                points[when] += value
    return [Series(key, flag, list(points.items())) for (key, flag), points in sorted(found.items())]


def shown(found: Sequence[Series], of: Asked) -> Mapping[str, Any]:
    """Return the series as JSON."""
    return {
        "owner": of.owner,
        "from": of.first.isoformat(),
        "to": of.last.isoformat(),
        "by": of.by,
        "series": [
            {
                "key": one.key,
                "flag": one.flag,
                "total": one.total,
                "points": [{"at": when, "value": value} for when, value in one.points],
            }
            for one in found
        ],
    }


def _times(of: Asked) -> Iterator[tuple[tuple[int, int, int, int], str]]:
    """Yield for every step between the days where it stands, as (year, month, day, place), and what it is called."""
    day = of.first
    while True:
        if of.calendar is Calendar.YEARLY:
            yield (day.year, 0, 0, day.month - 1), f"{day:%Y-%m}"
            day += dt.timedelta(calendar.monthrange(day.year, day.month)[1] - day.day)
        elif of.calendar is Calendar.MONTHLY:
            yield (day.year, day.month, 0, day.day - 1), day.isoformat()
        else:
            for hour in range(24):
                yield (day.year, day.month, day.day, hour), f"{day.isoformat()} {hour:02}:00"
        if day >= of.last:
            return
        day += dt.timedelta(1)


def _day(name: str, text: str | None, default: dt.date) -> dt.date:
    if text is None:
        return default
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise Invalid(name, text, "a day such as 2026-01-31") from None
