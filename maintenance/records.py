"""Records of runs: how they are asked for by a schedule, by a person, after a failure; and how they are shown. Pure."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from companion.core.errors import Invalid
from companion.core.runs import Progress, Run, RunState, Trigger
from maintenance.job import Job


def tick_of(job: str, due_at: int, now: int, holder: str = "") -> Run:
    """Return the run for the tick of a schedule; its id is the tick, so that it is asked for once. Times are Unix milliseconds.

    `holder` is who should run it; others do when it does not.
    """
    moment = dt.datetime.fromtimestamp(due_at / 1000, dt.UTC)
    return Run(f"{job}@{moment:%Y%m%dT%H%M%S}.{due_at % 1000:03}Z", job, Trigger.SCHEDULE, now, due_at, holder=holder)


def request_of(job: Job, parameters: Mapping[str, Any], now: int, *, dry: bool = False, priority: int = 10) -> Run:
    """Return the run that a person asks for, before what schedules ask for. Raises `Invalid` for a parameter it does not have."""
    for name in parameters:
        if name not in job.parameters:
            known = ", ".join(job.parameters) or "this job has none"
            raise Invalid(f"parameters.{name}", parameters[name], f"the parameters: {known}")
    run_id = f"{job.name}-{dt.datetime.fromtimestamp(now / 1000, dt.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    return Run(run_id, job.name, Trigger.PERSON, now, now, dict(parameters), dry, priority)


def retry_of(run: Run, now: int, seconds: float) -> Run:
    """Return the next attempt at a run that failed, due in so many seconds; it begins anew."""
    attempt = run.attempt + 1
    return replace(
        run,
        id=f"{run.id.partition('~')[0]}~{attempt}",
        trigger=Trigger.RETRY,
        requested_at=now,
        due_at=now + int(seconds * 1000),
        attempt=attempt,
        state=RunState.WAITING,
        cancelling=False,
        holder="",
        fence=0,
        started_at=None,
        beat_at=None,
        ended_at=None,
        batches=0,
        progress=Progress(),
        error="",
    )


def shown_run(run: Run, now: int) -> Mapping[str, Any]:
    """Return a run for people and programs; times are Unix milliseconds, `rate` is a second, `seconds_left` from now."""
    return {
        "id": run.id,
        "job": run.job,
        "trigger": run.trigger.value,
        "state": run.state.value,
        "dry": run.dry,
        "parameters": dict(run.parameters),
        "priority": run.priority,
        "attempt": run.attempt,
        "requested_at": run.requested_at,
        "due_at": run.due_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "cancelling": run.cancelling,
        "holder": run.holder,
        "fence": run.fence,
        "done": run.progress.done,
        "total": run.progress.total,
        "counts": dict(run.progress.counts),
        "batches": run.batches,
        "rate": run.rate(now),
        "seconds_left": run.seconds_left(now),
        "error": run.error,
    }
