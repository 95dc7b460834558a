"""Jobs over HTTP, on the operations port: what there is, what ran, run it, watch it, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from companion.core import strict_json
from companion.core.errors import CompanionError, Invalid
from companion.core.ports import Runs
from companion.core.runs import Run
from companion.door import Door, NotThere, as_json, number_of, read_body
from companion.job_settings import JobSettings
from companion.settings import Settings
from maintenance.clockwork import next_due
from maintenance.job import Job, check_lack, lack_of
from maintenance.records import request_of, shown_run

_MAX_BODY: Final = 65_536
_MOST_RUNS: Final = 1000
_FIELDS: Final = frozenset({"parameters", "dry"})
_LOOK_SECONDS: Final = 0.3
_BEAT_SECONDS: Final = 10.0
_EVENTS: Final = "text/event-stream"


class JobsApi:
    """The handlers; `asked` is called after a run was asked for, to wake whoever runs it."""

    def __init__(
        self,
        *,
        jobs: Mapping[str, Job],
        schedules: Mapping[str, JobSettings],
        settings: Settings,
        runs: Runs,
        door: Door,
        asked: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._jobs = jobs
        self._schedules = schedules
        self._settings = settings
        self._runs = runs
        self._door = door
        self._asked = asked
        self._now = now

    def add_routes(self, app: web.Application) -> None:
        """Put the handlers on the operations port."""
        app.router.add_get("/jobs", self._door.behind(self._list))
        app.router.add_get("/jobs/{name}/runs", self._door.behind(self._history))
        app.router.add_post("/jobs/{name}/runs", self._door.behind(self._run))
        app.router.add_get("/runs/{id}", self._door.behind(self._show))
        app.router.add_post("/runs/{id}/cancel", self._door.behind(self._cancel))

    async def _list(self, _: web.Request) -> web.Response:
        listed = []
        for name, job in sorted(self._jobs.items()):
            latest = await self._runs.list(jobs=[name], limit=1)
            due = next_due(name, self._schedules[name], self._now())
            listed.append(
                {
                    "name": name,
                    "purpose": job.purpose,
                    "parameters": dict(job.parameters),
                    "schedule": self._schedules[name].model_dump(),
                    "next_due_at": None if due is None else int(due * 1000),
                    "needs": lack_of(job, self._settings),
                    "last_run": self._shown(latest[0]) if latest else None,
                }
            )
        return as_json({"jobs": listed})

    async def _history(self, request: web.Request) -> web.Response:
        job = self._job(request)
        runs = await self._runs.list(jobs=[job.name], limit=number_of(request, "limit", 20, _MOST_RUNS))
        return as_json({"runs": [self._shown(run) for run in runs]})

    async def _run(self, request: web.Request) -> web.Response:
        job = self._job(request)
        body = await read_body(request, _MAX_BODY)
        asked = strict_json.decode(body) if body else {}
        if not isinstance(asked, dict):
            raise Invalid("body", type(asked).__name__, "an object with parameters and dry")
        for name in asked.keys() - _FIELDS:
            raise Invalid(name, asked[name], f"the fields are {', '.join(sorted(_FIELDS))}")
        parameters, dry = asked.get("parameters", {}), asked.get("dry", False)
        if not isinstance(parameters, dict):
            raise Invalid("parameters", parameters, "an object")
        if not isinstance(dry, bool):
            raise Invalid("dry", dry, "true or false")
        check_lack(job, self._settings, dry=dry)
        run = request_of(job, parameters, int(self._now() * 1000), dry=dry)
        await self._runs.add(run)
        self._asked()
        return as_json(self._shown(run), 202)

    async def _show(self, request: web.Request) -> web.StreamResponse:
        run = await self._found(request)
        if _EVENTS in request.headers.get(hdrs.ACCEPT, ""):
            return await self._follow(request, run)
        return as_json(self._shown(run))

    async def _follow(self, request: web.Request, run: Run) -> web.StreamResponse:
        """Tell every step until the run has ended, and between the steps that we are still there."""
        response = web.StreamResponse(
            headers={hdrs.CONTENT_TYPE: _EVENTS, hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            await self._tell(response, run)
        return response

    async def _tell(self, response: web.StreamResponse, run: Run) -> None:
        told: Run | None = None
        silent_since = self._now()
        while True:
            if run != told:
                told, silent_since = run, self._now()
                await response.write(b"event: run\ndata: " + msgspec.json.encode(self._shown(run)) + b"\n\n")
            elif self._now() - silent_since >= _BEAT_SECONDS:
                silent_since = self._now()
                await response.write(b": still here\n\n")
            if run.ended:
                return
            await asyncio.sleep(_LOOK_SECONDS)
            # While the store is away the last that is known stands.
            with contextlib.suppress(CompanionError):
                found = await self._runs.get(run.id)
                if found is None:
                    return
                run = found

    async def _cancel(self, request: web.Request) -> web.Response:
        await self._found(request)
        run = await self._runs.cancel(request.match_info["id"], int(self._now() * 1000))
        if run is None:
            raise _unknown_run(request)
        return as_json(self._shown(run), 200 if run.ended else 202)

    def _job(self, request: web.Request) -> Job:
        name = request.match_info["name"]
        if name not in self._jobs:
            raise NotThere(f"there is no job {name[:80]!a}: the jobs are {', '.join(sorted(self._jobs))}")
        return self._jobs[name]

    async def _found(self, request: web.Request) -> Run:
        run = await self._runs.get(request.match_info["id"])
        if run is None:
            raise _unknown_run(request)
        return run

    def _shown(self, run: Run) -> Mapping[str, Any]:
        return shown_run(run, int(self._now() * 1000))


def _unknown_run(request: web.Request) -> NotThere:
    return NotThere(f"there is no run {request.match_info['id'][:80]!a}")
