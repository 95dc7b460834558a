"""Snapshots of the broker, from a real HTTP server that answers what EMQX 5.8.9 answered."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from pydantic import SecretStr, ValidationError

from companion.core.stats import Calendar
from companion.metrics import Metrics
from companion.settings import Role
from maintenance.broker_source import BrokerSource, Snapshot, added
from tests.support.eventually import eventually
from tests.support.service import Service, make_settings, serving

FIXTURE: Final = Path(__file__).parents[1] / "fixtures" / "emqx-5.8.9-stats.jsonl"
KEY, SECRET = "key", "the-secret-of-the-api"


class Emqx:
    """Answers from the record; `metrics` may change, and `faults` come first."""

    def __init__(self) -> None:
        records = [json.loads(line) for line in FIXTURE.read_text().splitlines()]
        self.answers: dict[str, Any] = {one["path"]: one["response"] for one in records}
        self.faults: list[web.Response | float] = []
        self.asked = 0
        self.url = ""

    @property
    def metrics(self) -> dict[str, Any]:
        """The counters of its one node."""
        node: dict[str, Any] = self.answers["/api/v5/metrics"][0]
        return node

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if request.headers.get("Authorization") != f"Basic {base64.b64encode(f'{KEY}:{SECRET}'.encode()).decode()}":
            return web.json_response({"code": "BAD_API_KEY_OR_SECRET"}, status=401)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, web.Response):
            return fault
        if fault is not None:
            await asyncio.sleep(fault)
        return web.json_response(self.answers[request.path])


@pytest.fixture
async def emqx() -> AsyncIterator[Emqx]:
    server = Emqx()
    app = web.Application()
    app.router.add_get("/api/v5/{what}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield server
    await runner.cleanup()


def options(url: str, **more: Any) -> dict[str, Any]:
    own = {"emqx_url": url, "emqx_api_key": SecretStr(KEY), "emqx_api_secret": SecretStr(SECRET)}
    return {"observer": True, "emqx_every": 0.05, "emqx_timeout": 5.0, **own, **more}


async def found(service: Service) -> Mapping[str, int]:
    today = dt.datetime.now(dt.UTC).date()
    read = service.store.statistics.read
    stats = await read("broker", Calendar.YEARLY, today - dt.timedelta(1), today + dt.timedelta(1))
    return {stat.bucket.key: sum(stat.values) for stat in stats}


async def snapshots(service: Service, outcome: str) -> int:
    values = await service.samples("companion_broker_snapshots_total")
    return int(sum(value for labels, value in values if labels["outcome"] == outcome))


async def reached(service: Service, outcome: str, count: int) -> None:
    """Wait for so many snapshots with this outcome."""

    async def there() -> bool:
        return await snapshots(service, outcome) >= count

    await eventually(there, what=f"{count} snapshots {outcome}")


async def test_what_the_broker_counts(tmp_path: Path, emqx: Emqx) -> None:
    """What is new since the last snapshot is counted once, over restarts of ours and of the broker; the rest is averaged."""
    async with serving(tmp_path, Role.MAINTENANCE, **options(emqx.url)) as service:
        await reached(service, "taken", 2)
        assert "BROKER_COUNT__MESSAGES_RECEIVED" not in await found(service)
        emqx.metrics["messages.received"] += 40
        await reached(service, "taken", await snapshots(service, "taken") + 2)
    emqx.metrics["messages.received"] += 2
    emqx.metrics["authentication.failure"] += 1
    async with serving(tmp_path, Role.MAINTENANCE, **options(emqx.url)) as service:
        await reached(service, "taken", 2)
        emqx.metrics["messages.received"] = 5
        await reached(service, "taken", await snapshots(service, "taken") + 2)
        totals = await found(service)
        assert totals["BROKER_COUNT__MESSAGES_RECEIVED"] == 47
        assert totals["BROKER_COUNT__AUTHENTICATION_FAILURE"] == 1
        assert totals["BROKER_SUM__CONNECTIONS"] == 3 * totals["BROKER_COUNT__SNAPSHOTS"]
        assert "BROKER_SUM__CONNECTIONS_MAX" not in totals


@pytest.mark.parametrize(
    "fault",
    [
        web.Response(status=500),
        web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
        web.Response(body=b"<html>"),
        web.Response(body=b'{"node": "a"}'),
        web.Response(body=b'[{"messages.received": 1}]'),
        web.Response(body=b"[" + b" " * 5_000_000 + b"]"),
        1.5,
    ],
    ids=["500", "redirect", "html", "no list", "no node", "endless", "slow"],
)
async def test_a_broker_that_fails(tmp_path: Path, emqx: Emqx, fault: web.Response | float) -> None:
    """A wrong, late or missing answer is counted and said; the next snapshot counts what it missed, and nothing else suffers."""
    async with serving(tmp_path, Role.MAINTENANCE, **options(emqx.url, emqx_timeout=1.0)) as service:
        await reached(service, "taken", 1)
        emqx.metrics["messages.received"] += 10
        emqx.faults.append(fault)
        await reached(service, "failed", 1)
        await reached(service, "taken", await snapshots(service, "taken") + 2)
        assert (await found(service))["BROKER_COUNT__MESSAGES_RECEIVED"] == 10
        async with service.http.get(f"{service.ops}/readyz") as response:
            assert response.status == 200


async def test_a_wrong_key(tmp_path: Path, emqx: Emqx) -> None:
    """A key that EMQX does not know brings no snapshot."""
    async with serving(tmp_path, Role.MAINTENANCE, **options(emqx.url, emqx_api_secret=SecretStr("wrong"))) as service:
        await reached(service, "failed", 2)
        assert await snapshots(service, "taken") == 0
        assert await found(service) == {}


async def test_nobody_there(tmp_path: Path) -> None:
    """Without a broker the source waits for its next time, and can be closed and opened again."""
    source = BrokerSource(make_settings(tmp_path, **options("http://127.0.0.1:1", emqx_every=0.01)), Metrics())
    for _ in range(2):
        await source.open(None)
        assert [await source.read(1) for _ in range(3)] == [[], [], []]
        await source.close()
    assert await source.read(1) == []


def test_nodes_are_compared_with_themselves() -> None:
    """Each node's counters go on from its own; one that is new or began anew adds no more than it has counted since."""
    last = {"a": {"x": 10, "y": 5}, "b": {"x": 100}, "gone": {"x": 1}}
    now = Snapshot({"a": {"x": 12, "y": 5, "z": 1}, "b": {"x": 7}, "new": {"x": 1000}}, {"connections": 3, "topics": 0})
    assert added(last, now) == (
        ("BROKER_COUNT__SNAPSHOTS", 1),
        ("BROKER_COUNT__X", 9),
        ("BROKER_COUNT__Z", 1),
        ("BROKER_SUM__CONNECTIONS", 3),
    )


@pytest.mark.parametrize(
    "changes", [{"emqx_url": "127.0.0.1:18083"}, {"emqx_api_secret": SecretStr("")}, {"emqx_api_key": SecretStr("")}]
)
def test_settings_that_do_not_fit(tmp_path: Path, changes: Mapping[str, Any]) -> None:
    """An address without a scheme, or without a key, stops the start."""
    with pytest.raises(ValidationError, match="emqx_"):
        make_settings(tmp_path, **{**options("http://127.0.0.1:18083"), **changes})
