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
from itertools import pairwise
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
_HOUR: Final = 3600
_DAY: Final = 86_400
_FAR: Final = 400 * _DAY
_LOOKS: Final = 16
_AHEAD: Final = _DAY
"""How far it is looked for the end of windows that follow each other without a gap: then it is looked again from there."""

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

    __slots__ = ("_duration", "_gapless", "_memo", "_trigger", "_zone")

    def __init__(self, fields: dict[str, str], duration: int, zone: ZoneInfo) -> None:
        self._trigger = CronTrigger(**fields, timezone=dt.UTC)
        self._zone = zone
        self._duration = duration
        self._memo = (math.inf, -math.inf, False)
        # The platform writes "always" as a line of every second.
        hourly = all(fields[name] == "*" for name in ("hour", "day", "month", "day_of_week"))
        self._gapless = hourly and self._longest_pause() <= duration

    def is_open(self, at: float) -> bool:
        """Tell whether a window is open."""
        since, until, is_open = self._memo
        return is_open if since <= at < until else self._look(at)[2]

    def certain_until(self, at: float) -> float:
        """Return the time (after `at`) until which it stays open, or closed, at least; mostly it changes then."""
        since, until, _ = self._memo
        return until if since <= at < until else self._look(at)[1]

    def _look(self, at: float) -> tuple[float, float, bool]:
        always = self._until_clocks_change(math.floor(at)) if self._gapless else None
        first = self.next_after(at - self._duration)
        memo: tuple[float, float, bool]
        if always is not None:
            memo = (at, always, True)
        elif first is None:
            memo = (at, FOREVER, False)
        elif first > at:
            memo = (at, first, False)
        else:
            memo = (first, self._end(first, at), True)
        # One assignment: who looks at the same time sees the old one or the new one.
        self._memo = memo
        return memo

    def _end(self, begun: int, at: float) -> float:
        """Return when the window that begins at this time ends, together with those that follow without a gap; or sooner."""
        end = begun + self._duration
        for _ in range(_LOOKS):
            if end > at + _AHEAD:
                break
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

    def _longest_pause(self) -> int:
        """Return the longest time between two beginnings of a line that is the same in every hour."""
        begun = self._named(0) or 0
        seconds, minutes, wall = [], [], begun
        while wall < begun // 60 * 60 + 60:
            seconds.append(wall % 60)
            wall = self._named(wall + 1) or _HOUR
        wall = begun
        while wall < _HOUR:
            minutes.append(wall // 60)
            wall = self._named(wall // 60 * 60 + 60) or _HOUR
        named = [60 * minute + second for minute in minutes for second in seconds]
        return max(later - earlier for earlier, later in pairwise([*named, named[0] + _HOUR]))

    def _until_clocks_change(self, at: int) -> int | None:
        """Return when clocks change next, or a time that is far off; None when they have changed within the hour before."""
        try:
            offset = self._offset(at)
            if self._offset(at - _HOUR) != offset:
                return None
            for day in range(at + _DAY, at + _FAR, _DAY):
                if self._offset(day) != offset:
                    return self._change(day - _DAY, day)
        except (ValueError, OverflowError):
            return None
        return at + _FAR

    def next_after(self, at: float) -> int | None:
        """Return the first beginning after this time; None when there is none before the year 10000."""
        try:
            return self._next(math.floor(at) + 1)
        except (ValueError, OverflowError):
            # Beyond what a date can hold.
            return None

    def _next(self, first: int) -> int | None:
        """Return the first beginning at this second or later."""
        offset = self._offset(first)
        # Where clocks change at this very second, it has the times that they leave out, or shows what it has shown before.
        found = self._from(first, first + min(offset, self._offset(first - 1)))
        again = self._shown_again(first, offset)
        if again is None or (found is not None and found < again):
            return found
        # We are in an hour that comes twice: what has passed of it the first time is still to come the second time.
        second = self._from(again, again + self._offset(again))
        return found if second is None else second if found is None else min(found, second)

    def _from(self, first: int, wall: int) -> int | None:
        """Return the first instant, not before `first`, at which clocks show the next time of the line from `wall` on."""
        # The line is asked in UTC, where no time is left out and none comes twice.
        named = self._named(wall)
        if named is None:
            return None
        wall = named
        before, after = (self._offset_shown(wall, fold) for fold in (0, 1))
        instants = [wall - before, wall - after] if before >= after else [self._change(wall - after, wall - before)]
        return next((instant for instant in instants if instant >= first), None)

    def _named(self, wall: int) -> int | None:
        """Return the first time of the line from this one on, both as clocks show them, in seconds since 1970."""
        shown = self._trigger.get_next_fire_time(None, _EPOCH + dt.timedelta(seconds=wall))
        return None if shown is None else _seconds(shown - _EPOCH)

    def _shown_again(self, instant: int, offset: int) -> int | None:
        """Return when clocks are put back, if they will show the time of this instant once more; None where they will not."""
        wall = instant + offset
        later = wall - self._offset_shown(wall, 1)
        return self._change(instant, later) if later > instant else None

    def _change(self, low: int, high: int) -> int:
        """Return when clocks change between two instants."""
        before = self._offset(low)
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if self._offset(middle) == before else (low, middle)
        return high

    def _offset(self, instant: int) -> int:
        """Return by how many seconds clocks are ahead of UTC."""
        moment = (_EPOCH + dt.timedelta(seconds=instant)).astimezone(self._zone)
        return _seconds(moment.utcoffset() or dt.timedelta())

    def _offset_shown(self, wall: int, fold: int) -> int:
        """Return the same for what clocks show, for the first time (fold 0) or the second (PEP 495)."""
        shown = (_EPOCH + dt.timedelta(seconds=wall)).replace(tzinfo=self._zone, fold=fold)
        return _seconds(shown.utcoffset() or dt.timedelta())


def _seconds(span: dt.timedelta) -> int:
    return span.days * 86_400 + span.seconds


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
