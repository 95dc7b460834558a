"""Time windows: a cron line says when each begins, a duration how long it lasts. Pure.

Times are Unix seconds. A window that begins at `f` is open from `f` up to, and without, `f + duration`; where several overlap or
touch they are one. The line means the clocks of the window's time zone: a time that comes twice in autumn begins a window twice,
and one that is left out in spring begins it when the clocks have been put forward. When a line comes is APScheduler's to say.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from companion.core.cron import fields_of
from companion.core.errors import Invalid

MAX_DURATION: Final = 366 * 86_400
MAX_WINDOWS: Final = 100
"""Most windows of one rule."""

FOREVER: Final = math.inf

_FIELDS: Final = ("cron", "duration", "timezone")
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_YEAR_2000: Final = 946_684_800
_LONGEST_LINE: Final = 200
_LOOKS: Final = 32
"""How many windows that follow each other without a gap are looked at to find an end; then it is looked again from there."""

_ZONE: Final = re.compile(r"[A-Za-z0-9_+/-]{1,64}")


@dataclass(frozen=True, slots=True)
class Window:
    """When a rule holds: from each time of the cron line (in the time zone) on, for so many seconds."""

    cron: str
    duration: int
    timezone: str = "UTC"


def window_of(value: object) -> Window:
    """Return a table or an object (`cron`, `duration` in seconds, `timezone`) as a window; raise `Invalid` naming the field."""
    if not isinstance(value, Mapping):
        raise Invalid("window", type(value).__name__, "an object with cron, duration and perhaps timezone")
    for name in value:
        if name not in _FIELDS:
            raise Invalid(str(name), "this field", f"the fields of a window are {', '.join(_FIELDS)}")
    cron, duration, timezone = value.get("cron"), value.get("duration"), value.get("timezone", "UTC")
    if not isinstance(cron, str):
        raise Invalid("cron", cron, "a cron line, such as 0 8 * * mon-fri")
    if not isinstance(timezone, str):
        raise Invalid("timezone", timezone, "the name of a time zone, such as UTC or Europe/Berlin")
    if isinstance(duration, float) and duration.is_integer():
        duration = int(duration)
    if type(duration) is not int:
        raise Invalid("duration", duration, f"whole seconds from 1 to {MAX_DURATION} (366 days)")
    return Window(cron, duration, timezone)


def windows_of(values: object, field: str = "windows") -> tuple[Window, ...]:
    """Return a list of such as windows; raise `Invalid` naming the field."""
    if not isinstance(values, list | tuple):
        raise Invalid(field, type(values).__name__, "a list of windows")
    windows = []
    for number, value in enumerate(values):
        try:
            windows.append(window_of(value))
        except Invalid as problem:
            raise problem.within(f"{field}[{number}]") from None
    check_windows(windows, field)
    return tuple(windows)


def check_windows(windows: Iterable[Window], field: str = "windows") -> None:
    """Raise `Invalid` naming the field for windows that cannot be understood."""
    for number, window in enumerate(windows):
        if number >= MAX_WINDOWS:
            raise Invalid(field, f"more than {MAX_WINDOWS}", f"at most {MAX_WINDOWS} windows")
        problem = _made(window)
        if isinstance(problem, Invalid):
            raise problem.within(f"{field}[{number}]")


def schedule_of(window: Window) -> Schedule:
    """Return the schedule of a window, the same for equal ones. Raises `Invalid` for one that cannot be understood."""
    made = _made(window)
    if isinstance(made, Invalid):
        raise made
    return made


class Schedule:
    """Tells at any time whether a window is open, and until when that is certain. It remembers what it found last."""

    __slots__ = ("_duration", "_memo", "_trigger", "_zone")

    def __init__(self, fields: dict[str, str], duration: int, zone: ZoneInfo) -> None:
        self._trigger = CronTrigger(**fields, timezone=zone)
        self._zone = zone
        self._duration = duration
        self._memo = (math.inf, -math.inf, False)

    def is_open(self, at: float) -> bool:
        """Tell whether a window is open."""
        since, until, is_open = self._memo
        return is_open if since <= at < until else self._look(at)[2]

    def certain_until(self, at: float) -> float:
        """Return the time (after `at`) until which it stays open, or closed, at least; mostly it changes then."""
        since, until, _ = self._memo
        return until if since <= at < until else self._look(at)[1]

    def _look(self, at: float) -> tuple[float, float, bool]:
        first = self.next_after(at - self._duration)
        if first is None:
            memo = (at, FOREVER, False)
        elif first > at:
            memo = (at, first, False)
        else:
            memo = (first, self._end(int(first)), True)
        # One assignment: who looks at the same time sees the old one or the new one.
        self._memo = memo
        return memo

    def _end(self, begun: int) -> float:
        """Return when the window that begins at this time ends, together with those that follow without a gap."""
        end = begun + self._duration
        for _ in range(_LOOKS):
            latest = self._latest(begun, end)
            if latest is None:
                break
            begun, end = latest, latest + self._duration
        return end

    def _latest(self, after: int, until: int) -> int | None:
        """Return the latest beginning after the one and up to the other; None when there is none."""
        low = self.next_after(after)
        if low is None or low > until:
            return None
        high = until
        while low < high:
            middle = (low + high + 1) // 2
            found = self.next_after(middle - 1)
            if found is not None and found <= high:
                low = found
            else:
                high = middle - 1
        return low

    def next_after(self, at: float) -> int | None:
        """Return the first beginning after this time; None when there is none before the year 10000."""
        try:
            moment = _EPOCH + dt.timedelta(seconds=math.floor(at) + 1)
            found = self._trigger.get_next_fire_time(None, moment.astimezone(self._zone))
            return None if found is None else self._instant(found)
        except (ValueError, OverflowError):
            # Beyond what a date can hold.
            return None

    def _instant(self, found: dt.datetime) -> int:
        instant = int(found.timestamp())
        wall = found.replace(tzinfo=None)
        if self._wall(instant) == wall:
            return instant
        # The clocks leave this time out. Read as before and as after the change it lies on either side of that.
        low, high = sorted(int(wall.replace(tzinfo=self._zone, fold=fold).timestamp()) for fold in (0, 1))
        before = self._offset(low)
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if self._offset(middle) == before else (low, middle)
        return high

    def _wall(self, instant: int) -> dt.datetime:
        return dt.datetime.fromtimestamp(instant, self._zone).replace(tzinfo=None)

    def _offset(self, instant: int) -> dt.timedelta | None:
        return dt.datetime.fromtimestamp(instant, self._zone).utcoffset()


@lru_cache(maxsize=4096)
def _made(window: Window) -> Schedule | Invalid:
    """Return the schedule, or what is wrong: that is remembered too, since finding out may take long."""
    duration = window.duration
    if type(duration) is not int or not 1 <= duration <= MAX_DURATION:
        return Invalid("duration", duration, f"whole seconds from 1 to {MAX_DURATION} (366 days)")
    try:
        zone = ZoneInfo(window.timezone if _ZONE.fullmatch(window.timezone) else "-")
    except (KeyError, ValueError, OSError):
        return Invalid("timezone", window.timezone, "the name of a time zone, such as UTC or Europe/Berlin")
    if len(window.cron) > _LONGEST_LINE:
        return Invalid("cron", window.cron, f"a cron line of at most {_LONGEST_LINE} characters")
    try:
        schedule = Schedule(dict(fields_of(window.cron)), duration, zone)
    except ValueError as problem:
        return Invalid("cron", window.cron, f"a cron line ({problem})")
    if schedule.next_after(_YEAR_2000) is None:
        return Invalid("cron", window.cron, "a cron line of a time that comes")
    return schedule
