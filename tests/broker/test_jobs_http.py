"""Jobs over HTTP: a real service, a job of another package, requests as an engineer sends them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from companion.core.runs import Progress
from companion.job_settings import JobSettings
from companion.settings import Role
from maintenance import catalogue
from maintenance.housekeeping import Housekeeping
from maintenance.job import Work
from tests.support.eventually import eventually
from tests.support.service import OPS_KEY, Service, serving

KEY = {"Authorization": f"Bearer {OPS_KEY}"}


class Counting:
    """Counts slowly."""

    name = "counting"
    purpose = "counts"
    parameters: Mapping[str, str] = MappingProxyType({"to": "how far", "pause": "seconds a step"})
    schedule = JobSettings()
    lease_seconds = 5.0
    resumes = True

    async def batches(self, work: Work) -> AsyncIterator[Progress]:
        to = int(work.run.parameters.get("to", 5))
        for step in range(1, to + 1):
            await asyncio.sleep(float(work.run.parameters.get("pause", 0)))
            yield Progress(step, to, {"counted": step})


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr(catalogue, "OURS", (Housekeeping, Counting))
    async with serving(tmp_path, Role.MAINTENANCE) as running:
        yield running


async def ask(service: Service, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    async with service.http.request(method, f"{service.ops}{path}", data=data, headers={**KEY, **headers}) as response:
        return response.status, await response.json()


async def test_what_there_is(service: Service) -> None:
    """Every job with its purpose, its schedule and its last run."""
    status, body = await ask(service, "GET", "/jobs")
    assert status == 200
    housekeeping, counting = sorted(body["jobs"], key=lambda job: str(job["name"]), reverse=True)
    assert (counting["name"], counting["next_due_at"], counting["last_run"]) == ("counting", None, None)
    assert counting["parameters"] == {"to": "how far", "pause": "seconds a step"}
    assert housekeeping["schedule"]["every"] == 300
    assert housekeeping["next_due_at"] % 300_000 == 0


async def test_one_without_work(tmp_path: Path) -> None:
    """It is never due and says what it needs; who asks for it is told the same, and it never runs."""
    often = {name: JobSettings(every=0.2) for name in ("sessions-reconcile", "housekeeping")}
    async with serving(tmp_path, Role.MAINTENANCE, jobs_schedules=often) as service:
        needs = "the address of EMQX's REST API (emqx_url)"
        listed = {job["name"]: job for job in (await ask(service, "GET", "/jobs"))[1]["jobs"]}
        assert (listed["sessions-reconcile"]["needs"], listed["sessions-reconcile"]["next_due_at"]) == (needs, None)
        assert listed["housekeeping"]["needs"] is None
        status, body = await ask(service, "POST", "/jobs/sessions-reconcile/runs", {"dry": True})
        assert (status, body["field"]) == (422, "job")
        assert needs in body["error"]

        async def others() -> bool:
            return len((await ask(service, "GET", "/jobs/housekeeping/runs"))[1]["runs"]) > 3

        await eventually(others, what="another job has run several times meanwhile")
        assert (await ask(service, "GET", "/jobs/sessions-reconcile/runs"))[1]["runs"] == []


async def test_a_run_from_request_to_end(service: Service) -> None:
    """202 with the run; it is done soon; it stands in the history of its job and in the metrics."""
    status, run = await ask(service, "POST", "/jobs/counting/runs", {"parameters": {"to": 3}})
    assert (status, run["state"], run["trigger"]) == (202, "waiting", "person")

    async def done() -> Any:
        found = (await ask(service, "GET", f"/runs/{run['id']}"))[1]
        return found if found["state"] == "done" else None

    ended = await eventually(done, what="the run is done")
    assert (ended["done"], ended["total"], ended["counts"], ended["seconds_left"]) == (3, 3, {"counted": 3}, None)
    assert (await ask(service, "GET", "/jobs/counting/runs?limit=1"))[1]["runs"] == [ended]
    assert await service.metric("companion_job_runs_total", job_name="counting", state="done") == 1


async def test_following(service: Service) -> None:
    """Server-sent events tell every step until the end."""
    _, run = await ask(service, "POST", "/jobs/counting/runs", {"parameters": {"to": 4, "pause": 0.4}})
    headers = {**KEY, "Accept": "text/event-stream"}
    async with asyncio.timeout(20), service.http.get(f"{service.ops}/runs/{run['id']}", headers=headers) as response:
        assert response.content_type == "text/event-stream"
        told = [json.loads(line[6:]) async for line in response.content if line.startswith(b"data: ")]
    assert [one["done"] for one in told] == sorted(one["done"] for one in told)
    assert len({one["done"] for one in told}) >= 4
    assert told[-1]["state"] == "done"
    assert all(one["state"] in {"waiting", "running"} for one in told[:-1])


async def test_cancelling(service: Service) -> None:
    """A running one is asked to end, and ends within a second or so."""
    _, run = await ask(service, "POST", "/jobs/counting/runs", {"parameters": {"to": 1000, "pause": 0.05}})

    async def state() -> Any:
        return (await ask(service, "GET", f"/runs/{run['id']}"))[1]["state"]

    async def running() -> bool:
        return bool(await state() == "running")

    await eventually(running, what="it runs")
    status, answer = await ask(service, "POST", f"/runs/{run['id']}/cancel")
    assert (status, answer["cancelling"]) == (202, True)

    async def cancelled() -> bool:
        return bool(await state() == "cancelled")

    await eventually(cancelled, what="it has ended")
    assert (await ask(service, "POST", f"/runs/{run['id']}/cancel"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("GET", "/runs/nobody", None, 404, "there is no run 'nobody'"),
        ("POST", "/runs/nobody/cancel", None, 404, "there is no run"),
        ("POST", "/jobs/nobody/runs", None, 404, "the jobs are counting, housekeeping"),
        ("GET", "/jobs/nobody/runs", None, 404, "the jobs are counting, housekeeping"),
        ("GET", "/jobs/counting/runs?limit=0", None, 422, "limit: '0'"),
        ("GET", "/jobs/counting/runs?limit=x", None, 422, "limit: 'x'"),
        ("POST", "/jobs/counting/runs", b"{", 400, "not valid JSON"),
        ("POST", "/jobs/counting/runs", [], 422, "body"),
        ("POST", "/jobs/counting/runs", {"parameters": {"speed": 1}}, 422, "parameters.speed"),
        ("POST", "/jobs/counting/runs", {"parameters": 1}, 422, "parameters: 1"),
        ("POST", "/jobs/counting/runs", {"dry": 1}, 422, "dry: 1"),
        ("POST", "/jobs/counting/runs", {"colour": 1}, 422, "colour"),
        ("POST", "/jobs/counting/runs", b" " * 70_000, 413, "longer"),
    ],
)
async def test_bad_requests(service: Service, *, method: str, path: str, body: Any, status: int, error: str) -> None:
    """A 4xx that names what is wrong and what is allowed; nothing is asked for."""
    found, answer = await ask(service, method, path, body)
    assert found == status
    assert error in answer["error"]
    assert await service.store.runs.list(jobs=["counting"]) == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/jobs"), ("POST", "/jobs/counting/runs"), ("GET", "/runs/x"), ("POST", "/runs/x/cancel")],
)
async def test_without_a_key(service: Service, method: str, path: str) -> None:
    """Nobody sees or runs anything without an operations key."""
    async with service.http.request(method, f"{service.ops}{path}", headers={"Authorization": "Bearer no"}) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert await service.metric("companion_http_unauthorized_total", port="ops") == 1
