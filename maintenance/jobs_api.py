"""Jobs over HTTP, on the operations port: what there is, what ran, run it, watch it, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from companion.core import strict_json
from companion.core.errors import CompanionError, Invalid
from companion.core.ports import Runs
from companion.core.runs import Run
from companion.job_settings import JobSettings
from companion.keys import Keyring
from companion.metrics import Metrics
from maintenance.clockwork import next_due
from maintenance.job import Job
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
        runs: Runs,
        keyring: Keyring,
        metrics: Metrics,
        asked: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._jobs = jobs
        self._schedules = schedules
        self._runs = runs
        self._keyring = keyring
        self._unauthorized = metrics.unauthorized.labels("ops")
        self._asked = asked
        self._now = now

    def add_routes(self, app: web.Application) -> None:
        """Put the handlers on the operations port."""
        app.router.add_get("/jobs", self._answered(self._list))
        app.router.add_get("/jobs/{name}/runs", self._answered(self._history))
        app.router.add_post("/jobs/{name}/runs", self._answered(self._run))
        app.router.add_get("/runs/{id}", self._answered(self._show))
        app.router.add_post("/runs/{id}/cancel", self._answered(self._cancel))

    def _answered(
        self, handle: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Let in who has a key, and turn what goes wrong into an answer of one line."""

        async def answer(request: web.Request) -> web.StreamResponse:
            if not self._keyring.admits(request.headers.get(hdrs.AUTHORIZATION)):
                self._unauthorized.inc()
                response = _json({"error": "a valid key is needed: Authorization: Bearer ..."}, 401)
                response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
                return response
            try:
                return await handle(request)
            except strict_json.NotJson as problem:
                return _json({"error": str(problem)}, 400)
            except _Unknown as problem:
                return _json({"error": str(problem)}, 404)
            except Invalid as problem:
                return _json({"error": str(problem), "field": problem.field}, 422)
            except CompanionError as problem:
                response = _json({"error": f"the store did not answer: {problem}"}, 503)
                response.headers[hdrs.RETRY_AFTER] = "1"
                return response

        return answer

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
                    "last_run": self._shown(latest[0]) if latest else None,
                }
            )
        return _json({"jobs": listed})

    async def _history(self, request: web.Request) -> web.Response:
        job = self._job(request)
        text = request.query.get("limit", "20")
        if not text.isdecimal() or not 1 <= int(text) <= _MOST_RUNS:
            raise Invalid("limit", text, f"a number from 1 to {_MOST_RUNS}")
        return _json({"runs": [self._shown(run) for run in await self._runs.list(jobs=[job.name], limit=int(text))]})

    async def _run(self, request: web.Request) -> web.Response:
        job = self._job(request)
        body = await request.content.read(_MAX_BODY + 1)
        if len(body) > _MAX_BODY:
            return _json({"error": f"the body is longer than {_MAX_BODY} bytes"}, 413)
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
        run = request_of(job, parameters, int(self._now() * 1000), dry=dry)
        await self._runs.add(run)
        self._asked()
        return _json(self._shown(run), 202)

    async def _show(self, request: web.Request) -> web.StreamResponse:
        run = await self._found(request)
        if _EVENTS in request.headers.get(hdrs.ACCEPT, ""):
            return await self._follow(request, run)
        return _json(self._shown(run))

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
        return _json(self._shown(run), 200 if run.ended else 202)

    def _job(self, request: web.Request) -> Job:
        name = request.match_info["name"]
        if name not in self._jobs:
            raise _Unknown(f"there is no job {name[:80]!a}: the jobs are {', '.join(sorted(self._jobs))}")
        return self._jobs[name]

    async def _found(self, request: web.Request) -> Run:
        run = await self._runs.get(request.match_info["id"])
        if run is None:
            raise _unknown_run(request)
        return run

    def _shown(self, run: Run) -> Mapping[str, Any]:
        return shown_run(run, int(self._now() * 1000))


class _Unknown(Exception):
    """There is no such thing."""


def _unknown_run(request: web.Request) -> _Unknown:
    return _Unknown(f"there is no run {request.match_info['id'][:80]!a}")


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(status=status, content_type="application/json", body=msgspec.json.encode(body))
