"""When which job runs, and which have nothing to do under some settings."""

from __future__ import annotations

from typing import Any

import pytest

from companion.anonymizing import AccountTable
from companion.settings import Settings
from maintenance.catalogue import load_jobs, schedules
from maintenance.job import lack_of

STORES = {"store": "production", "mongo_url": "mongodb://h/?replicaSet=r", "redis_url": "redis://h"}
EMQX = {"emqx_url": "http://h", "emqx_api_key": "k", "emqx_api_secret": "s"}
NOBODY = AccountTable(collection="-")


@pytest.mark.parametrize(
    ("values", "dry", "lacking"),
    [
        ({}, False, {"anonymizer": "store", "mirror-reconcile": "store", "sessions-reconcile": "emqx_url"}),
        ({}, True, {"anonymizer": "store", "mirror-reconcile": "store", "sessions-reconcile": "emqx_url"}),
        (EMQX, False, {"anonymizer": "store", "mirror-reconcile": "store"}),
        ({**STORES, **EMQX}, False, {"anonymizer": "anonymizer_key", "mirror-reconcile": "mirror_collections"}),
        ({**STORES, **EMQX}, True, {"mirror-reconcile": "mirror_collections"}),
        (
            {**STORES, **EMQX, "mirror_collections": "*", "anonymizer_accounts": {"users": NOBODY}},
            False,
            {"anonymizer": "anonymizer_accounts"},
        ),
        ({**STORES, **EMQX, "mirror_collections": "*", "anonymizer_key": "k" * 32}, False, {}),
    ],
)
def test_what_is_lacking(values: dict[str, Any], *, dry: bool, lacking: dict[str, str]) -> None:
    """Each job says which setting it lacks; those that lack something, and no others, are never due."""
    jobs, settings = load_jobs(), Settings(**values)
    found = {name: lack for name, job in jobs.items() if (lack := lack_of(job, settings, dry=dry)) is not None}
    assert found.keys() == lacking.keys()
    assert all(setting in found[name] for name, setting in lacking.items())
    plan = schedules(jobs, settings)
    never = {name for name, one in plan.items() if not one.cron and one.every is None}
    assert never == {name for name, job in jobs.items() if lack_of(job, settings) is not None}
    assert all(plan[name].attempts == job.schedule.attempts for name, job in jobs.items())
