"""`companion jobs`: what there is, run it, watch it, stop it, and why something did or did not run."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from companion.cli.context import counted, print_json, print_rows, settings, with_store
from companion.core.errors import Invalid, Permanent
from companion.core.ports import Store
from companion.core.runs import Run, RunState
from companion.core.strict_json import NotJson, decode
from maintenance.catalogue import load_jobs, schedules, served
from maintenance.clockwork import next_due
from maintenance.job import Job, check_lack, lack_of
from maintenance.records import request_of, shown_run

app = typer.Typer(help="Maintenance jobs: they run on a schedule, or when you ask.", no_args_is_help=True)

_LOOK_SECONDS: Final = 0.2
_RECENT: Final = 20
_BEAT_SECONDS: Final = 60.0

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="Name of the job.", show_default=False)]


@app.callback()
def jobs() -> None:
    """Look after the jobs."""


@app.command("list")
def list_jobs(as_json: AsJson = False) -> None:
    """List the jobs, when each runs next and how its last run went."""
    known, current = load_jobs(), settings()
    plan = schedules(known, current)

    async def last(store: Store) -> Mapping[str, Run | None]:
        return {name: next(iter(await store.runs.list(jobs=[name], limit=1)), None) for name in known}

    latest, now = with_store(last), time.time()
    due = {name: next_due(name, plan[name], now) for name in known}
    lacks = {name: lack_of(job, current) for name, job in known.items()}
    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "purpose": job.purpose,
                    "parameters": dict(job.parameters),
                    "next_due_at": None if (at := due[name]) is None else int(at * 1000),
                    "needs": lacks[name],
                    "last_run": _shown(run) if (run := latest[name]) is not None else None,
                }
                for name, job in sorted(known.items())
            ]
        )
        return
    rows = [
        (name, _next(due[name], lacks[name]), _summary(latest[name]), job.purpose)
        for name, job in sorted(known.items())
    ]
    print_rows(counted(len(rows), "job"), ("job", "next", "last run", "purpose"), rows)


@app.command("run")
def run_job(
    name: JobName,
    parameter: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter; the value may be JSON.")
    ] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Write nothing, report the same.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show the progress until the run has ended.")] = True,
) -> None:
    """Ask for a run. A process with the maintenance role takes it; Ctrl-C stops the watching, not the run."""
    job = _job(load_jobs(), name)
    check_lack(job, settings(), dry=dry)
    run = request_of(job, _parameters(parameter or []), _now(), dry=dry)

    async def ask(store: Store) -> Run:
        await store.runs.add(run)
        return await _follow(store, run) if wait else run

    ended = with_store(ask)
    _report(ended)


@app.command()
def status(run_id: RunId, as_json: AsJson = False, follow: Annotated[bool, typer.Option("--follow")] = False) -> None:
    """Show one run."""

    async def look(store: Store) -> Run:
        run = await _found(store, run_id)
        return await _follow(store, run) if follow and not run.ended else run

    run = with_store(look)
    if as_json:
        print_json(_shown(run))
        return
    rows = [(key, _told(key, value)) for key, value in _shown(run).items() if value not in (None, "", {}, False)]
    print_rows(run.id, ("what", "is"), rows)


@app.command()
def cancel(run_id: RunId) -> None:
    """Stop a run: at once while it waits, after its batch while it runs."""

    async def stop(store: Store) -> Run:
        await _found(store, run_id)
        run = await store.runs.cancel(run_id, _now())
        assert run is not None  # noqa: S101 - it was there a moment ago, and only retention removes it
        return run

    run = with_store(stop)
    typer.echo(
        f"run {run.id} is {run.state.value}" if run.ended else f"run {run.id} was asked to end after its present batch"
    )


@app.command()
def history(
    name: Annotated[str, typer.Argument(metavar="[JOB]", help="Only of this job.", show_default=False)] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = _RECENT,
    as_json: AsJson = False,
) -> None:
    """List the newest runs."""
    wanted = [_job(load_jobs(), name).name] if name else None
    runs = with_store(lambda store: store.runs.list(jobs=wanted, limit=limit))
    if as_json:
        print_json([_shown(run) for run in runs])
        return
    rows = [
        (
            run.id,
            run.state.value + (" (dry)" if run.dry else ""),
            run.trigger.value,
            _when(run.started_at),
            _duration(run),
            _counts(run),
            run.error,
        )
        for run in runs
    ]
    print_rows(counted(len(rows), "run"), ("run", "state", "asked by", "began", "took", "did", "error"), rows)


@app.command()
def why(name: JobName) -> None:
    """Say why a job runs or does not run."""
    current, known = settings(), load_jobs()
    job = _job(known, name)
    plan = schedules(known, current)[name]

    async def look(store: Store) -> Sequence[Run]:
        return await store.runs.list(jobs=[name], limit=_RECENT)

    runs = with_store(look)
    lines = [f"{name}: {job.purpose}."]
    due = next_due(name, plan, time.time())
    if lack := lack_of(job, current):
        lines.append(f"It has nothing to do here: it needs {lack}.")
    elif due is None:
        lines.append("It has no schedule: it runs when somebody asks.")
    else:
        lines.append(f"It is due {_when(int(due * 1000))} ({plan.cron or f'every {plan.every:g} s'}, {plan.timezone}).")
    if current.jobs_mode == "none":
        lines.append("Here no jobs run at all (COMPANION_JOBS_MODE=none).")
    elif name not in served(known, current):
        lines.append(f"Not by processes with these settings: jobs_serve is {', '.join(current.jobs_serve)}.")
    if runs or not lack:
        lines += _reasons(runs, _now())
    for line in lines:
        typer.echo(line)


def _reasons(runs: Sequence[Run], now: int) -> Sequence[str]:
    """Return what the records say about why a job runs or not."""
    if not runs:
        return ["It has never been asked for: no process with the maintenance role has ticked yet."]
    lines = []
    for run in runs:
        silent = (now - (run.beat_at or now)) / 1000
        if run.state is RunState.RUNNING and silent > _BEAT_SECONDS:
            lines.append(f"{run.id} runs by its record, but {run.holder} has been silent for {silent:.0f} s.")
        elif run.state is RunState.RUNNING:
            lines.append(f"{run.id} is running at {run.holder}.")
        elif run.state is RunState.WAITING and run.due_at > now:
            lines.append(f"{run.id} waits until {_when(run.due_at)} (attempt {run.attempt}).")
        elif run.state is RunState.WAITING:
            lines.append(f"{run.id} waits since {_when(run.due_at)} for a process that takes it.")
    ended = next((run for run in runs if run.ended), None)
    if ended is not None:
        lines.append(f"The last that ended: {ended.id}, {_summary(ended)}{': ' + ended.error if ended.error else ''}.")
    return lines


async def _follow(store: Store, run: Run) -> Run:
    """Show the progress until the run has ended; return it as it then is."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False, disable=not console.is_terminal) as bar:
        task = bar.add_task(run.id, total=None, rate="")
        while not run.ended:
            _draw(bar, task, run)
            await asyncio.sleep(_LOOK_SECONDS)
            run = await _found(store, run.id)
        _draw(bar, task, run)
    return run


def _draw(bar: Progress, task: TaskID, run: Run) -> None:
    rate = run.rate(_now())
    total = run.progress.done if run.state is RunState.DONE else run.progress.total
    bar.update(
        task,
        description=f"{run.job} {run.state.value}{' (' + counts + ')' if (counts := _counts(run)) else ''}",
        completed=run.progress.done,
        total=total,
        rate="" if rate is None else f"{rate:,.0f}/s",
    )


def _report(run: Run) -> None:
    """Say how it ended; a failure ends the command with it."""
    if not run.ended:
        typer.echo(f"asked for run {run.id}")
        return
    line = f"run {run.id} is {run.state.value}{' (dry)' if run.dry else ''}: {_counts(run) or 'nothing to do'}"
    if run.state is not RunState.DONE:
        raise Permanent(f"{line}; {run.error}")
    typer.echo(line)


def _job(known: Mapping[str, Job], name: str) -> Job:
    if name not in known:
        raise Invalid("job", name, f"one of {', '.join(sorted(known))}")
    return known[name]


async def _found(store: Store, run_id: str) -> Run:
    run = await store.runs.get(run_id)
    if run is None:
        raise Invalid("run", run_id, "a run that is known (companion jobs history)")
    return run


def _parameters(texts: Sequence[str]) -> Mapping[str, Any]:
    parameters: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise Invalid("--set", text, "NAME=VALUE")
        try:
            parameters[name] = decode(value.encode())
        except NotJson:
            parameters[name] = value
    return parameters


def _shown(run: Run) -> Mapping[str, Any]:
    return shown_run(run, _now())


def _told(key: str, value: Any) -> str:  # noqa: ANN401 - whatever a run says of itself
    """Return a field of a run for people."""
    if key.endswith("_at"):
        return _when(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(name, one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if type(value) is int and key != "fence" else str(value)


def _now() -> int:
    return int(time.time() * 1000)


def _next(due: float | None, lack: str | None) -> str:
    return f"needs {lack}" if lack else _when(None if due is None else int(due * 1000))


def _when(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "-"
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _duration(run: Run) -> str:
    if run.started_at is None:
        return "-"
    return f"{((run.ended_at or _now()) - run.started_at) / 1000:.1f} s"


def _counts(run: Run) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in run.progress.counts.items() if count)


def _summary(run: Run | None) -> str:
    if run is None:
        return "never"
    return f"{run.state.value} {_when(run.ended_at or run.started_at or run.requested_at)}"
