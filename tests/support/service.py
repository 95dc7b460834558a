"""The service at work in this process: real ports, a real store, and a second door to the same data."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from broker_hooks.hashing import hash_password
from companion.core.model import Account, Audit, Kind
from companion.core.ports import Store
from companion.runtime import Running, running
from companion.settings import Role, Settings
from companion.stores.opening import open_store
from tests.support.eventually import eventually

HOOK_KEY = "the-hook-key-of-the-tests"
OPS_KEY = "the-operations-key-of-the-tests"
_WORD_SECONDS = 0.1
NOBODY_LISTENS = 1
"""A port without a broker: publishing is not what these tests are about."""


def make_settings(data_dir: Path, **changes: Any) -> Settings:
    """Return settings for free ports, cheap passwords and a quick look at the store's changes."""
    values = {
        "data_dir": data_dir,
        "hooks_port": 0,
        "hooks_keys": (SecretStr(HOOK_KEY),),
        "ops_port": 0,
        "ops_keys": (SecretStr(OPS_KEY),),
        "mqtt_port": NOBODY_LISTENS,
        "password_cost": 4,
        "cache_poll": 0.02,
        "log_decisions": "all",
    }
    return Settings(**(values | changes))


def account_of(username: str, password: str, *, kind: Kind = Kind.DEVICE, principal: str = "", **more: Any) -> Account:
    """Return an account whose password is hashed at the lowest cost."""
    return Account(username, kind, principal or username, hash_password(password, 4), **more)


@dataclass(frozen=True, slots=True)
class Service:
    """A running service. `store` is a second one over the same data, as another process would open it."""

    running: Running
    settings: Settings
    store: Store
    http: aiohttp.ClientSession

    @property
    def hooks_port(self) -> int:
        """The port of the hooks; only with a role that has them."""
        assert self.running.hooks_port is not None
        return self.running.hooks_port

    @property
    def hooks(self) -> str:
        """The address of the hooks."""
        return f"http://127.0.0.1:{self.hooks_port}"

    @property
    def ops(self) -> str:
        """The address of the operations port."""
        return f"http://127.0.0.1:{self.running.ops_port}"

    async def ask(self, hook: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Send `fields` as JSON to `/mqtt/{hook}` with the hook key, and return the answer, which EMQX would understand."""
        headers = {"Authorization": f"Bearer {HOOK_KEY}"}
        async with self.http.post(f"{self.hooks}/mqtt/{hook}", json=fields, headers=headers) as response:
            assert response.status == 200
            assert response.content_type == "application/json"
            answer = await response.json()
        assert isinstance(answer, dict)
        assert answer["result"] in {"allow", "deny"}
        return answer

    async def login(self, username: str, password: str, client_id: str = "c1") -> dict[str, Any]:
        """Ask whether this client may connect."""
        return await self.ask("auth", {"username": username, "password": password, "clientid": client_id})

    async def may(self, username: str, action: str, topic: str, client_id: str = "c1", **more: str) -> bool:
        """Ask whether this client may publish or subscribe."""
        fields = {"username": username, "clientid": client_id, "action": action, "topic": topic}
        answer = await self.ask("authz", fields | more)
        assert "expire_at" not in answer
        return bool(answer["result"] == "allow")

    async def remembers(self, username: str, topic: str) -> None:
        """Return once this user may publish there, and that is remembered.

        Word of what was just written comes by two ways; the slower one may come after the first answer and make it forgotten.
        """

        async def known() -> bool:
            allowed = await self.may(username, "publish", topic)
            before = await self.metric("companion_cache_lookups_total", cache="policy", outcome="miss")
            await asyncio.sleep(_WORD_SECONDS)
            await self.may(username, "publish", topic)
            after = await self.metric("companion_cache_lookups_total", cache="policy", outcome="miss")
            return allowed and after == before

        await eventually(known, what=f"{username} is known")

    async def change(self, body: Any) -> tuple[int, dict[str, Any]]:
        """Post `body` as JSON to `/changes` and return the status and the answer."""
        headers = {"Authorization": f"Bearer {OPS_KEY}"}
        async with self.http.post(f"{self.ops}/changes", json=body, headers=headers) as response:
            return response.status, await response.json()

    async def scrape(self) -> str:
        """Return what `/metrics` says."""
        async with self.http.get(f"{self.ops}/metrics") as response:
            assert response.status == 200
            return await response.text()

    async def samples(self, name: str) -> Sequence[tuple[dict[str, str], float]]:
        """Return the labels and the scraped values of every series of this name."""
        families = text_string_to_metric_families(await self.scrape())
        return [(one.labels, one.value) for family in families for one in family.samples if one.name == name]

    async def metric(self, name: str, **labels: str) -> float:
        """Return the scraped value of one series."""
        (value,) = [value for found, value in await self.samples(name) if found == labels]
        return value

    async def audits(self, count: int) -> Sequence[Audit]:
        """Return the audit records, oldest first, once there are `count` of them."""

        async def written() -> Sequence[Audit] | None:
            records = await self.store.audits.latest(count + 1)
            return records if len(records) >= count else None

        return (await eventually(written, what=f"{count} audit records"))[::-1]


@contextlib.asynccontextmanager
async def serving(data_dir: Path, role: Role = Role.HOOKS, **changes: Any) -> AsyncIterator[Service]:
    """Run the service of `role`, by default the hooks, until the block ends."""
    settings = make_settings(data_dir, **changes)
    async with (
        running(settings, role) as process,
        open_store(settings) as store,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
    ):
        yield Service(process, settings, store, http)
