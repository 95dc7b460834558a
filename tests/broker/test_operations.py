"""The operations port and the lifecycle, over real HTTP and with a real process."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from companion.core.errors import Invalid
from companion.keys import ensure_key
from companion.runtime import running
from companion.settings import Role
from companion.stores.embedded import EmbeddedStore
from tests.support.eventually import eventually
from tests.support.mosquitto import Mosquitto
from tests.support.service import make_settings, serving
from tests.support.subscriber import subscriber
from tests.support.waiting import wait_until

DAY = 86_400


async def readiness(session: aiohttp.ClientSession, ops: str) -> tuple[int, dict[str, Any]]:
    async with session.get(f"{ops}/readyz") as response:
        return response.status, await response.json()


async def test_readiness_names_what_is_missing(tmp_path: Path) -> None:
    """Without a broker /readyz is 503 and says why, while the hooks are ready and /healthz is 200; with it, 200."""
    async with Mosquitto(autostart=False) as broker, serving(tmp_path, Role.ALL, mqtt_port=broker.port) as service:
        status, body = await readiness(service.http, service.ops)
        assert status == 503
        assert body["roles"]["hooks"] == body["roles"]["maintenance"] == "ready"
        assert f"127.0.0.1:{broker.port}" in body["roles"]["publisher"]
        assert body["stores"] == {"sqlite": "ready"}
        async with service.http.get(f"{service.ops}/healthz") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
        await broker.start()

        async def ready() -> bool:
            return (await readiness(service.http, service.ops))[0] == 200

        await eventually(ready, what="the publisher is ready")
        assert await service.metric("companion_broker_connected") == 1


async def test_a_store_that_is_away_shows_in_readiness(tmp_path: Path) -> None:
    """A store that cannot be read makes the hooks not ready; the process stays healthy."""
    async with serving(tmp_path) as service:
        with sqlite3.connect(tmp_path / "companion.sqlite3") as connection:
            connection.execute("DROP TABLE generation")
        status, body = await readiness(service.http, service.ops)
        assert status == 503
        assert "generation" in body["roles"]["hooks"]
        assert "generation" in body["stores"]["sqlite"]
        async with service.http.get(f"{service.ops}/healthz") as response:
            assert response.status == 200


async def test_the_metrics_text(tmp_path: Path) -> None:
    """/metrics is Prometheus' text format, with a help line for every metric and every reason from the start."""
    async with serving(tmp_path) as service:
        text = await service.scrape()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert names == set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    assert {"companion_hook_decisions_total", "companion_hook_seconds", "companion_build_info"} <= names
    assert 'companion_hook_decisions_total{hook="authz",reason="no_rule",verdict="deny"} 0.0' in text
    assert "_created" not in text


@pytest.mark.parametrize("name", ["hooks", "ops"])
async def test_a_port_that_is_taken(tmp_path: Path, name: str) -> None:
    """A port that somebody else has stops the start with the setting, the address and what is allowed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            Invalid, match=f"{name}_port: '127.0.0.1:{port}' is not allowed; an address and a port that are free"
        ):
            async with running(make_settings(tmp_path, **{f"{name}_port": port}), Role.HOOKS):
                pass


async def test_keys_are_made_once(tmp_path: Path) -> None:
    """Without configured keys the first start makes them, for the owner's eyes only; an empty key file is refused."""
    async with serving(tmp_path, Role.ALL, hooks_keys=(), ops_keys=()):
        key = (tmp_path / "hook.key").read_text()
    assert (tmp_path / "hook.key").stat().st_mode & 0o777 == 0o600
    async with serving(tmp_path, Role.ALL, hooks_keys=(), ops_keys=()):
        assert (tmp_path / "hook.key").read_text() == key
    assert (tmp_path / "ops.key").read_text() != key
    (tmp_path / "hook.key").write_text("\n")
    with pytest.raises(Invalid, match="not empty"):
        ensure_key(tmp_path / "hook.key")


async def started(data_dir: Path, **variables: str) -> tuple[Process, dict[str, Any]]:
    """Start `companion serve` and return it with its line `started`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COMPANION_")} | variables
    environ |= {"COMPANION_DATA_DIR": str(data_dir), "COMPANION_HOOKS_PORT": "0", "COMPANION_OPS_PORT": "0"}
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("companion"), "serve", stdout=PIPE, stderr=PIPE, env=environ
    )
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while True:
            line = await process.stderr.readline()
            assert line, "the service ended"
            entry: dict[str, Any] = json.loads(line)
            if entry["event"] == "started":
                return process, entry


async def test_a_real_process_from_start_to_sigterm(tmp_path: Path) -> None:
    """`companion serve` publishes a change that was posted to it, and a SIGTERM ends it with exit code 0 and nothing in work."""
    async with Mosquitto() as broker, subscriber(broker.port, "alice/#") as inbox:
        process, line = await started(tmp_path, COMPANION_MQTT_PORT=str(broker.port))
        headers = {"Authorization": f"Bearer {(tmp_path / 'ops.key').read_text().strip()}"}
        change = {"op": "create", "db": "thing", "collection": "devices", "id": "1", "after": {"owner": "alice"}}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{line['ops_port']}/changes", json=change, headers=headers) as response,
        ):
            assert response.status == 202
            event_id = (await response.json())["event_ids"][0]
        await wait_until(lambda: bool(inbox.messages), 30, what="the message arrives")
        (message,) = inbox.messages
        assert json.loads(message.payload) == {"id": "1", "op": "c", "src": "thing/devices", "event_id": event_id}
        assert message.topic == "alice/thing/1/devices"
        assert message.properties["content_type"] == ["application/json"]
        assert dict(message.properties["user_property"]) == {"event-id": event_id, "op": "create"}
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            _, errors = await process.communicate()
        assert process.returncode == 0
        assert json.loads(errors.splitlines()[-1])["event"] == "stopped"
        async with EmbeddedStore.open(tmp_path) as store:
            assert await store.checkpoints.load("publisher") == "1"
