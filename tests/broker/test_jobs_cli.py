"""`companion jobs`, beside a real service process, with a job that another package brings by its entry point."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually

PROGRAM = Path(sys.executable).with_name("companion")
SECONDS = 30.0

NEEDS = {
    "anonymizer": "MongoDB (store=production)",
    "mirror-reconcile": "MongoDB and Redis (store=production)",
    "sessions-reconcile": "the address of EMQX's REST API (emqx_url)",
}

PACKAGE = """
import asyncio
from companion.core.runs import Progress
from companion.job_settings import JobSettings

class Report:
    name = "acme-report"
    purpose = "shows that others can bring jobs"
    parameters = {"lines": "how many", "pause": "seconds a line"}
    schedule = JobSettings()
    lease_seconds = 5.0
    resumes = True

    async def batches(self, work):
        lines = int(work.run.parameters.get("lines", 3))
        for number in range(int(work.run.progress.position or 0), lines):
            await asyncio.sleep(float(work.run.parameters.get("pause", 0)))
            yield Progress(number + 1, lines, {"lines": number + 1, "dry": int(work.run.dry)}, str(number + 1))
"""


@dataclass(frozen=True, slots=True)
class Shell:
    """A shell with the package installed and a service running."""

    environ: dict[str, str]

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run `companion ARGUMENTS` to its end and return what it printed."""
        process = await asyncio.create_subprocess_exec(PROGRAM, *arguments, stdout=PIPE, stderr=PIPE, env=self.environ)
        async with asyncio.timeout(SECONDS):
            output, errors = await process.communicate()
        assert process.returncode == code, (output, errors)
        text = output.decode() if code == 0 else errors.decode()
        assert code == 0 or text.count("\n") == 1, text
        return text

    async def serve(self) -> Process:
        """Start a maintenance process."""
        return await asyncio.create_subprocess_exec(
            PROGRAM, "serve", "--role", "maintenance", stdout=PIPE, stderr=PIPE, env=self.environ
        )


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Install the package as pip would, in a folder of its own."""
    folder = tmp_path / "packages"
    (folder / "acme_jobs-1.0.dist-info").mkdir(parents=True)
    (folder / "acme_jobs.py").write_text(PACKAGE)
    (folder / "acme_jobs-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme-jobs\nVersion: 1.0\n"
    )
    (folder / "acme_jobs-1.0.dist-info" / "entry_points.txt").write_text(
        "[companion.jobs]\nreport = acme_jobs:Report\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COMPANION_")}
    return clean | {
        "PYTHONPATH": str(folder),
        "COMPANION_DATA_DIR": str(tmp_path / "data"),
        "COMPANION_OPS_PORT": "0",
    }


@pytest.fixture
async def shell(environ: dict[str, str]) -> AsyncIterator[Shell]:
    running = Shell(environ)
    process = await running.serve()
    yield running
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(SECONDS):
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def test_a_job_of_another_package(shell: Shell) -> None:
    """It is listed, run with its parameters, also dry, shown, explained and kept in the history."""
    assert "shows that others can bring jobs" in await shell("jobs", "list")
    assert "is done: lines 7" in await shell("jobs", "run", "acme-report", "--set", "lines=7")
    assert "is done (dry): lines 3, dry 1" in await shell("jobs", "run", "acme-report", "--dry-run")
    runs = json.loads(await shell("jobs", "history", "acme-report", "--json"))
    assert [(run["state"], run["done"], run["dry"]) for run in runs] == [("done", 3, True), ("done", 7, False)]
    shown = await shell("jobs", "status", runs[0]["id"])
    assert "done" in shown
    assert "lines 3, dry 1" in shown
    assert re.search(r"started_at +│ \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", shown)
    explained = await shell("jobs", "why", "acme-report")
    assert "It has no schedule: it runs when somebody asks." in explained
    assert f"The last that ended: {runs[0]['id']}, done" in explained
    (report, *_) = json.loads(await shell("jobs", "list", "--json"))
    assert report["last_run"]["id"] == runs[0]["id"]


async def test_stopping_one(shell: Shell) -> None:
    """`--no-wait` returns at once; `cancel` ends it; who waits for one that is cancelled exits 1 with one line."""
    asked = await shell("jobs", "run", "acme-report", "--set", "lines=10000", "--set", "pause=0.05", "--no-wait")
    run_id = asked.split()[-1]

    async def state() -> Any:
        return json.loads(await shell("jobs", "status", run_id, "--json"))["state"]

    async def running() -> bool:
        return bool(await state() == "running")

    await eventually(running, what="it runs")
    waits = asyncio.create_task(shell("jobs", "run", "acme-report", "--set", "lines=1", code=1))
    assert f"{run_id} is running at" in await shell("jobs", "why", "acme-report")

    async def both() -> Any:
        runs = json.loads(await shell("jobs", "history", "acme-report", "--json"))
        return runs[0]["id"] if len(runs) == 2 else None

    waiting = await eventually(both, what="the second waits")
    assert f"run {waiting} is cancelled" in await shell("jobs", "cancel", waiting)
    assert "is cancelled" in await waits
    assert "after its present batch" in await shell("jobs", "cancel", run_id)

    async def cancelled() -> bool:
        return bool(await state() == "cancelled")

    await eventually(cancelled, what="it has ended")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("jobs", "run", "nobody"),
            1,
            "job: 'nobody' is not allowed; one of acme-report, anonymizer, auditor, cleaner, housekeeping, mirror-reconcile",
        ),
        (("jobs", "run", "acme-report", "--set", "lines"), 1, "--set: 'lines' is not allowed; NAME=VALUE"),
        (("jobs", "run", "acme-report", "--set", "speed=1"), 1, "the parameters: lines, pause"),
        (("jobs", "status", "nobody"), 1, "run: 'nobody' is not allowed"),
        (("jobs", "cancel", "nobody"), 1, "run: 'nobody' is not allowed"),
        (("jobs", "why", "nobody"), 1, "job: 'nobody' is not allowed"),
    ],
)
async def test_mistakes(environ: dict[str, str], arguments: tuple[str, ...], code: int, message: str) -> None:
    """One line that names what is wrong and what is allowed."""
    assert message in await Shell(environ)(*arguments, code=code)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "COMPANION_JOBS_SERVE",
            "sweeper",
            "jobs_serve: 'sweeper' is not allowed; * or names of jobs: acme-report, anonymizer, auditor, cleaner, housekeeping",
        ),
        ("COMPANION_JOBS_SCHEDULES", '{"x": {}}', "jobs_schedules: 'x' is not allowed; names of jobs"),
        ("COMPANION_JOBS_SCHEDULES", '{"housekeeping": {"cron": "x x x x x"}}', "jobs_schedules.housekeeping.cron"),
    ],
)
async def test_settings_that_no_job_has(environ: dict[str, str], variable: str, value: str, message: str) -> None:
    """The service does not start, and says why in one line."""
    process = await Shell(environ | {variable: value}).serve()
    async with asyncio.timeout(SECONDS):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert message in errors.decode()
    assert "Traceback" not in errors.decode()


@pytest.mark.parametrize(
    "source", ["", "class Report:\n    name = 'housekeeping'\n", "class Report:\n    name = 'Not a name'\n", "1 / 0"]
)
async def test_packages_that_are_broken(tmp_path: Path, environ: dict[str, str], source: str) -> None:
    """A job that cannot be loaded, or has another's name, is named; nothing runs by halves."""
    (tmp_path / "packages" / "acme_jobs.py").write_text(source)
    assert "companion.jobs: " in await Shell(environ)("jobs", "list", code=1)


async def test_jobs_without_work(environ: dict[str, str]) -> None:
    """Where a job has nothing to do it is not due, the list and `why` say what it needs, and nobody can ask for it."""
    shell = Shell(environ)
    listed = {job["name"]: job for job in json.loads(await shell("jobs", "list", "--json"))}
    assert {name: job["needs"] for name, job in listed.items() if job["needs"]} == NEEDS
    assert {name for name, job in listed.items() if job["next_due_at"] is None} == {*NEEDS, "acme-report"}
    table = await shell("jobs", "list")
    for name, needs in NEEDS.items():
        assert f"needs {needs}" in table
        assert f"It has nothing to do here: it needs {needs}." in await shell("jobs", "why", name)
        for more in ((), ("--dry-run",), ("--no-wait",)):
            assert f"job: '{name}' is not allowed; it needs {needs}" in await shell("jobs", "run", name, *more, code=1)
    assert json.loads(await shell("jobs", "history", "--json")) == []


async def test_no_jobs_here(environ: dict[str, str]) -> None:
    """With the mode `none` nothing is run, and `why` says so."""
    shell = Shell(environ | {"COMPANION_JOBS_MODE": "none"})
    process = await shell.serve()
    assert "asked for run" in await shell("jobs", "run", "housekeeping", "--no-wait")
    explained = await shell("jobs", "why", "housekeeping")
    assert "Here no jobs run at all" in explained
    assert "for a process that takes it" in explained
    assert "Not by processes with these settings" in await Shell(environ | {"COMPANION_JOBS_SERVE": "acme-report"})(
        "jobs", "why", "housekeeping"
    )
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(SECONDS):
        await process.communicate()
    assert process.returncode == 0
