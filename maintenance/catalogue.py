"""Which jobs there are: ours, and those that other packages bring.

A package adds one by an entry point, without touching our code:

    [project.entry-points."companion.jobs"]
    report = "acme.jobs:Report"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Final

from companion.core.errors import Invalid
from companion.job_settings import JobSettings
from companion.settings import Settings
from maintenance.anonymizer import Anonymizer
from maintenance.auditor import Auditor
from maintenance.cleaner import Cleaner
from maintenance.housekeeping import Housekeeping
from maintenance.job import Factory, Job, lack_of
from maintenance.mirror_reconcile import MirrorReconcile
from maintenance.sessions_reconcile import SessionsReconcile

GROUP: Final = "companion.jobs"
OURS: Final[tuple[Factory, ...]] = (Anonymizer, Auditor, Cleaner, Housekeeping, MirrorReconcile, SessionsReconcile)

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_ALL: Final = "*"


def load_jobs() -> Mapping[str, Job]:
    """Return every job by its name. Raises `Invalid` for one that cannot be loaded, or whose name is wrong or taken."""
    jobs = {job.name: job for job in (make() for make in OURS)}
    for point in entry_points(group=GROUP):
        try:
            job: Job = point.load()()
            name = job.name
        except Exception as problem:  # noqa: BLE001 - somebody else's code: whatever is wrong with it is said in one line
            raise Invalid(
                GROUP, point.value, f"something that makes a job ({type(problem).__name__}: {problem})"
            ) from None
        if not _NAME.fullmatch(name) or name in jobs:
            raise Invalid(GROUP, name, f"a name of its own of lower-case letters, digits and - ({point.value})")
        jobs[name] = job
    return jobs


def served(jobs: Mapping[str, Job], settings: Settings) -> frozenset[str]:
    """Return the names of the jobs that this process runs. Raises `Invalid` for a name that no job has."""
    for name in settings.jobs_serve:
        if name != _ALL and name not in jobs:
            raise Invalid("jobs_serve", name, f"* or names of jobs: {', '.join(sorted(jobs))}")
    return frozenset(jobs) if _ALL in settings.jobs_serve else frozenset(settings.jobs_serve)


def schedules(jobs: Mapping[str, Job], settings: Settings) -> Mapping[str, JobSettings]:
    """Return when each job runs; one that has nothing to do here never does.

    Raises `Invalid` for settings of a job that there is not.
    """
    for name in settings.jobs_schedules:
        if name not in jobs:
            raise Invalid("jobs_schedules", name, f"names of jobs: {', '.join(sorted(jobs))}")
    plan = {name: settings.jobs_schedules.get(name, job.schedule) for name, job in jobs.items()}
    never = {"cron": "", "every": None}
    return {
        name: one if lack_of(jobs[name], settings) is None else one.model_copy(update=never)
        for name, one in plan.items()
    }
