"""The ticks of the schedules: when a job is due, by APScheduler's triggers.

Every process with a schedule ticks; a tick has its due time as its identity, so that of all replicas one asks for the run. Ticks
that nobody saw, because no process ran, are made good at the start, the last one of each job, if its grace is not over.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

from apscheduler.events import EVENT_JOB_SUBMITTED
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from companion.core.cron import days_of_week
from companion.core.errors import Invalid
from companion.job_settings import JobSettings

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MOST_TICKS: Final = 100_000

Tick = Callable[[str, int], Awaitable[None]]
"""Told of a job's name and of the time at which it was due (Unix milliseconds)."""


def trigger_of(name: str, schedule: JobSettings) -> Any:  # noqa: ANN401 - APScheduler has no types
    """Return the trigger of a schedule; None for one that never ticks. Raises `Invalid` for a cron line that is none."""
    zone = ZoneInfo(schedule.timezone)
    if schedule.every is not None:
        # Counted from one moment for all, every replica ticks at the same times.
        return IntervalTrigger(seconds=schedule.every, start_date=_EPOCH, timezone=zone)
    if not schedule.cron:
        return None
    minute, hour, day, month, weekday = schedule.cron.split()
    try:
        return CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=days_of_week(weekday), timezone=zone
        )
    except ValueError as problem:
        raise Invalid(f"jobs_schedules.{name}.cron", schedule.cron, f"a cron line ({problem})") from None


def last_due(trigger: Any, now: dt.datetime, grace: float) -> dt.datetime | None:  # noqa: ANN401 - likewise
    """Return the last time before `now` at which the trigger was due, not longer ago than `grace` seconds."""
    found, at = None, now - dt.timedelta(seconds=grace)
    if isinstance(trigger, IntervalTrigger):
        at = max(at, now - 2 * trigger.interval)
    for _ in range(_MOST_TICKS):
        due = trigger.get_next_fire_time(None, at)
        if due is None or due > now:
            break
        found, at = due, due + dt.timedelta(milliseconds=1)
    return found


def next_due(name: str, schedule: JobSettings, now: float) -> float | None:
    """Return when the schedule ticks next, in Unix seconds; None when it never does."""
    trigger = trigger_of(name, schedule)
    due = None if trigger is None else trigger.get_next_fire_time(None, dt.datetime.fromtimestamp(now, dt.UTC))
    return None if due is None else float(due.timestamp())


class Clockwork:
    """Ticks for as long as it runs."""

    def __init__(self, schedules: Mapping[str, JobSettings], tick: Tick, now: Callable[[], float] = time.time) -> None:
        self._schedules = schedules
        self._triggers = {name: trigger_of(name, one) for name, one in schedules.items()}
        self._tick = tick
        self._now = now
        self._due: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    async def run(self) -> None:
        """Tick until cancelled; how long telling takes puts off no tick."""
        scheduler = AsyncIOScheduler(timezone=dt.UTC)
        moment = dt.datetime.fromtimestamp(self._now(), dt.UTC)
        for name, trigger in self._triggers.items():
            if trigger is None:
                continue
            schedule = self._schedules[name]
            missed = last_due(trigger, moment, schedule.grace)
            if missed is not None:
                self._due.put_nowait((name, _milliseconds(missed)))
            scheduler.add_job(
                _nothing,
                trigger,
                id=name,
                coalesce=True,
                max_instances=1000,
                misfire_grace_time=max(1, int(schedule.grace)),
            )
        scheduler.add_listener(self._submitted, EVENT_JOB_SUBMITTED)
        scheduler.start()
        try:
            while True:
                await self._tick(*await self._due.get())
        finally:
            scheduler.shutdown(wait=False)

    def _submitted(self, event: Any) -> None:  # noqa: ANN401 - APScheduler has no types
        jitter = self._schedules[event.job_id].jitter
        tick = (event.job_id, _milliseconds(event.scheduled_run_times[-1]))
        wait = jitter * random.random()  # noqa: S311 - spreads load, protects nothing
        asyncio.get_running_loop().call_later(wait, self._due.put_nowait, tick)


async def _nothing() -> None:
    """Do nothing: we only want to know that APScheduler would have run something."""


def _milliseconds(moment: dt.datetime) -> int:
    return round(moment.timestamp() * 1000)
