"""Cron lines: the names of days as cron numbers them, and what of a line a trigger needs. Pure.

A line has five fields (minute, hour, day of the month, month, day of the week) or six, with the second before them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIVE: Final = ("minute", "hour", "day", "month", "day_of_week")
_SIX: Final = ("second", *_FIVE)
_EVERY: Final = frozenset({"*", "?"})


def days_of_week(field: str) -> str:
    """Return the last field of a cron line with names for days: there 0 and 7 are Sunday, elsewhere 0 is Monday.

    Raises ValueError for what is none.
    """
    if field == "*" or field.startswith("*/"):
        return field
    days: list[str] = []
    for part in field.lower().split(","):
        match = re.fullmatch(r"(\w+)(?:-(\w+))?(?:/(\d+))?", part)
        if match is None:
            raise ValueError(field)
        first = _day(match[1])
        last = first if match[2] is None else _day(match[2])
        days += [_DAYS[one % 7] for one in range(first, last + 1 + 7 * (last < first), int(match[3] or 1))]
    return ",".join(dict.fromkeys(days))


def fields_of(cron: str) -> Mapping[str, str]:
    """Return the fields of a line by the names that APScheduler gives them.

    Raises ValueError, with what would be right, for a line of another length and for one that limits both the day of the month and
    the day of the week: some crons take either for a match and some ask for both.
    """
    parts = cron.split()
    if len(parts) not in {len(_FIVE), len(_SIX)}:
        raise ValueError(
            "five fields: minute, hour, day of the month, month, day of the week; or six, the second first"
        )
    fields = dict(zip(_FIVE if len(parts) == len(_FIVE) else _SIX, parts, strict=True))
    if fields["day"] not in _EVERY and fields["day_of_week"] not in _EVERY:
        raise ValueError("a day of the month or a day of the week, not both, which crons understand in different ways")
    fields = {name: "*" if field == "?" else field for name, field in fields.items()}
    # A step over all days begins with Sunday.
    weekday = re.sub(r"^\*/", "0-6/", fields["day_of_week"])
    return {"second": "0"} | fields | {"day_of_week": days_of_week(weekday)}


def _day(text: str) -> int:
    if text in _DAYS:
        return _DAYS.index(text)
    number = int(text)
    if not 0 <= number <= len(_DAYS):
        raise ValueError(text)
    return number
