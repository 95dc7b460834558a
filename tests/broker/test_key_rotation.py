"""Keys that change while the service runs: the new set is in force everywhere, or the old one stays."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from companion.core.model import Account, Kind
from companion.stores.embedded import EmbeddedStore
from tests.support.eventually import eventually
from tests.support.serve import Serving, companion_serve
from tests.support.service import serving

OLD: Final = "the-old-key-of-the-tests"
NEW: Final = "the-new-key-of-the-tests"
OPS_OLD: Final = "the-old-operations-key"
OPS_NEW: Final = "the-new-operations-key"
ASK: Final = {"username": "alice", "clientid": "c", "action": "subscribe", "topic": "alice/#"}
CONNECTIONS: Final = 24
"""So many that every worker gets some."""

GUARDED: Final = (
    ("POST", "/changes"),
    ("POST", "/reload"),
    ("POST", "/explain"),
    ("GET", "/jobs"),
    ("GET", "/stats"),
    ("GET", "/revocations"),
    ("POST", "/revocations"),
    ("GET", "/presence"),
)


def bearer(key: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {key}"}


class House:
    """A service whose keys stand in files."""

    def __init__(self, folder: Path) -> None:
        self.hooks_file, self.ops_file = folder / "hooks.keys", folder / "ops.keys"
        self.hooks_file.write_text(OLD)
        self.ops_file.write_text(OPS_OLD)
        self.settings: dict[str, object] = {"hooks_keys_file": self.hooks_file, "ops_keys_file": self.ops_file}
        self.http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        self.service: Serving

    async def answers(self, key: str) -> set[int | str]:
        """Ask on many connections; return the statuses, of 200 the verdicts."""

        async def once() -> int | str:
            url = f"http://127.0.0.1:{self.service.hooks_port}/mqtt/authz"
            # A connection that stays open is answered by the worker that has it, so each asks on one of its own.
            headers = {**bearer(key), "Connection": "close"}
            async with self.http.post(url, json=ASK, headers=headers) as response:
                return str((await response.json())["result"]) if response.status == 200 else response.status

        return set(await asyncio.gather(*(once() for _ in range(CONNECTIONS))))

    async def ops(self, method: str, path: str, key: str) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.service.ops_port}{path}"
        async with self.http.request(method, url, headers=bearer(key)) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text


async def opened(folder: Path) -> House:
    async with EmbeddedStore.open(folder / "data") as store:
        await store.accounts.add([Account("alice", Kind.DEVICE, "alice", "no hash")])
    return House(folder)


@pytest.mark.parametrize("workers", [1, 2])
async def test_hook_keys_change_while_it_runs(tmp_path: Path, workers: int) -> None:
    """Old; old and new; new: at each step every worker takes just these, connections that are open go on, nothing is restarted."""
    house = await opened(tmp_path)
    options = ("--role", "hooks", "--workers", str(workers))
    async with house.http, companion_serve(tmp_path / "data", *options, **house.settings) as house.service:
        kept, children = house.service, house.service.children
        assert (await house.answers(OLD), await house.answers(NEW)) == ({"allow"}, {401})
        house.hooks_file.write_text(f"{NEW}\n{OLD}\n")
        status, answer = await house.ops("POST", "/reload", OPS_OLD)
        assert (status, answer["status"], "keys" in answer["parts"]) == (200, "reloaded", True)
        assert (await house.answers(OLD), await house.answers(NEW)) == ({"allow"}, {"allow"})
        house.hooks_file.write_text(NEW)
        kept.hang_up()
        await kept.logs("keys changed", 2, port="hooks")

        async def only_new() -> bool:
            return await house.answers(OLD) == {401} and await house.answers(NEW) == {"allow"}

        await eventually(only_new, 30, what="the old key is out everywhere")
        assert kept.children == children


@pytest.mark.parametrize("text", ["shrt-key", f"{NEW},shrt-key", "a key with spaces in it", "é" * 20])
async def test_keys_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    """They are refused as a whole, in the answer, the log and a metric, without a word of them; the old ones go on."""
    house = await opened(tmp_path)
    async with house.http, companion_serve(tmp_path / "data", "--role", "hooks", **house.settings) as house.service:
        house.hooks_file.write_text(text)
        house.ops_file.write_text(OPS_NEW)
        status, answer = await house.ops("POST", "/reload", OPS_OLD)
        assert (status, answer["field"]) == (422, "hooks_keys")
        assert "at least 16" in answer["error"]
        await house.service.logs("configuration refused: the old one stays", part="keys")
        _, metrics = await house.ops("GET", "/metrics", "")
        assert 'companion_reloads_total{outcome="refused"} 1.0' in metrics
        assert "companion_reload_refused 1.0" in metrics
        assert (await house.answers(OLD), await house.answers(NEW)) == ({"allow"}, {401})
        # All or nothing: the operations key was good, and has not changed either.
        assert (await house.ops("POST", "/reload", OPS_NEW))[0] == 401
        said = answer["error"] + json.dumps(house.service.entries) + metrics
        assert text not in said
        house.hooks_file.unlink()
        status, answer = await house.ops("POST", "/reload", OPS_OLD)
        assert (status, answer["field"]) == (422, "hooks_keys_file")
        house.hooks_file.write_text(OLD)
        assert (await house.ops("POST", "/reload", OPS_OLD))[0] == 200
        _, metrics = await house.ops("GET", "/metrics", "")
        assert "companion_reload_refused 0.0" in metrics


async def test_operations_keys_change_for_every_route(tmp_path: Path) -> None:
    """Whatever asks for an operations key asks for the new one afterwards."""
    house = await opened(tmp_path)
    async with house.http, companion_serve(tmp_path / "data", **house.settings) as house.service:
        all_of, none = [True] * len(GUARDED), [False] * len(GUARDED)

        async def admitted(key: str) -> Sequence[bool]:
            return [(await house.ops(method, path, key))[0] != 401 for method, path in GUARDED]

        assert (await admitted(OPS_OLD), await admitted(OPS_NEW)) == (all_of, none)
        house.ops_file.write_text(OPS_NEW)
        assert (await house.ops("POST", "/reload", OPS_OLD))[0] == 200
        assert (await admitted(OPS_OLD), await admitted(OPS_NEW)) == (none, all_of)


async def test_made_keys_change_too(tmp_path: Path, logged: io.StringIO) -> None:
    """Where none is configured, it is the file in the data folder that is read again; one that is gone is made anew."""
    async with serving(tmp_path, hooks_keys=(), log_decisions="none") as service:
        made = (tmp_path / "hook.key").read_text().strip()

        async def status(key: str) -> int:
            url = f"{service.hooks}/mqtt/authz"
            async with service.http.post(url, json=ASK, headers=bearer(key)) as response:
                return response.status

        (tmp_path / "hook.key").unlink()
        assert (await service.running.reloading.reload()).told is None
        fresh = (tmp_path / "hook.key").read_text().strip()
        assert fresh != made
        assert (await status(made), await status(fresh)) == (401, 200)
        (tmp_path / "hook.key").write_text("shrt-key")
        told = (await service.running.reloading.reload()).told
        assert told is not None
        assert "data_dir" in told
        assert "shrt-key" not in told
        assert await status(fresh) == 200
        assert fresh not in logged.getvalue()


async def test_keys_from_the_configuration_file(tmp_path: Path) -> None:
    """They are read again from there as well; any mistake in the file refuses it."""
    config = tmp_path / "companion.toml"
    config.write_text(f'hooks_keys = ["{OLD}"]\n')
    house = await opened(tmp_path)
    settings = {"config": config, "ops_keys_file": house.ops_file}
    async with house.http, companion_serve(tmp_path / "data", "--role", "hooks", **settings) as house.service:
        config.write_text(f'hooks_keys = ["{NEW}"]\nhooks_ports = 1\n')
        status, answer = await house.ops("POST", "/reload", OPS_OLD)
        assert (status, answer["field"]) == (422, "hooks_ports")
        assert await house.answers(OLD) == {"allow"}
        config.write_text(f'hooks_keys = ["{NEW}"]\n')
        assert (await house.ops("POST", "/reload", OPS_OLD))[0] == 200
        assert (await house.answers(OLD), await house.answers(NEW)) == ({401}, {"allow"})


async def test_a_worker_that_starts_later_has_the_new_keys(tmp_path: Path) -> None:
    """One that takes the place of a dead one goes by the keys in force, not by those of the start."""
    house = await opened(tmp_path)
    options = ("--role", "hooks", "--workers", "2")
    async with house.http, companion_serve(tmp_path / "data", *options, **house.settings) as house.service:
        house.hooks_file.write_text(NEW)
        assert (await house.ops("POST", "/reload", OPS_OLD))[0] == 200
        victim = house.service.children[0]
        os.kill(victim, signal.SIGKILL)
        await house.service.logs("worker started", 3)
        assert (await house.answers(OLD), await house.answers(NEW)) == ({401}, {"allow"})
