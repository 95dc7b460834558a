"""The hooks on the production profile as real processes, a proxy of ours before each store, and what can be done to the stores.

load ──HTTP──▶ `companion serve --role hooks` ──▶ proxy ──▶ MongoDB
                                              └─▶ proxy ──▶ Redis
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from pymongo import AsyncMongoClient

from companion.core.model import Notice, Scope
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction, subject_of_kind
from companion.settings import Role
from companion.stores.opening import open_store
from tests.faults.outage_load import CLIENTS, PASSWORD, number_of
from tests.faults.service import Service
from tests.support import redis
from tests.support.mongo import MongoServer, mongo_server
from tests.support.mosquitto import free_port
from tests.support.production import settings_of
from tests.support.proxy import Proxy, proxied
from tests.support.redis import RedisServer, redis_server
from tests.support.service import HOOK_KEY, NOBODY_LISTENS, account_of, make_settings

DEADLINE: Final = 3.0
"""The default of hooks_deadline."""

CACHE_SECONDS: Final = 4.0
"""Shorter than an outage, so that what is allowed in it is not only what is remembered, but what has expired."""

_LOOK_SECONDS: Final = 0.25

Step = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Health:
    """What the operations port said: when it did not say that the process lives, and how ready it was last."""

    dead: list[str] = field(default_factory=list)
    ready: bool = False
    stores: Mapping[str, str] = field(default_factory=dict)
    missed: set[str] = field(default_factory=set)
    """Every store that was named as away, since somebody cleared this."""


class House:
    """Everything that runs. The stores are reached around the proxies by `db` and `announce`, as somebody else would."""

    def __init__(
        self,
        service: Service,
        hooks: str,
        *,
        servers: tuple[MongoServer, RedisServer],
        proxies: tuple[Proxy, Proxy],
        http: aiohttp.ClientSession,
        mongo: AsyncMongoClient[dict[str, Any]],
        settings: Mapping[str, Any],
    ) -> None:
        self.service = service
        self.hooks = hooks
        self.numbers = itertools.count(1)
        self.health = Health()
        self.http = http
        self._mongo, self._redis = servers
        self.proxies = {"mongodb": proxies[0], "redis": proxies[1]}
        self._settings = settings
        self._db = mongo[settings["mongo_database"]]

    def faults(self) -> Mapping[str, tuple[str, Step, Step]]:
        """Return every outage by its name: the store, how it begins and how it ends."""
        made: dict[str, tuple[str, Step, Step]] = {}
        for store, server in (("redis", self._redis), ("mongodb", self._mongo)):
            proxy = self.proxies[store]
            made[f"{store} killed"] = (store, _step(server.kill), _step(server.start))
            made[f"{store} in a black hole"] = (store, _step(proxy.swallow), _step(proxy.heal))
        return made

    async def disable(self, username: str) -> None:
        """Write it into MongoDB, around everything that is ours."""
        await self._db.mqtt_accounts.update_one({"username": username}, {"$set": {"disabled": True}})

    async def announce(self, username: str) -> None:
        """Tell of it in Redis, as a replica does that can reach it."""
        async with redis.opened(self._redis.url, self._settings["redis_prefix"]) as ports:
            await ports.notices.announce(Notice(Scope.ACCOUNT, username))

    async def audits(self) -> int:
        """Return how many audit records there are."""
        return int(await self._db.mqtt_audits.estimated_document_count())

    async def populate(self, names: list[str]) -> None:
        """Make the accounts and the rules that the load is about; `names` are further devices."""
        names = [*names, *(f"{kind}-{number}" for kind in ("device", "wrong", "disabled") for number in range(CLIENTS))]
        settings = make_settings(self.service.data_dir, **self._settings, mongo_timeout=2.5)
        async with open_store(settings) as store:
            await store.accounts.add(
                [account_of(name, PASSWORD, disabled=name.startswith("disabled-")) for name in names]
            )
            device = subject_of_kind("device")
            await store.rules.add(Rule(device, Effect.ALLOW, RuleAction.PUBLISH, "telemetry/${username}/#"))
            await store.rules.add(Rule(device, Effect.ALLOW, RuleAction.PUBLISH, "secret/#"))
            await store.rules.add(Rule(EVERYONE, Effect.DENY, RuleAction.PUBLISH, "secret/#"))

    async def is_ready(self) -> bool:
        """Tell whether everything was ready at the last look."""
        return self.health.ready

    async def look(self) -> None:
        """Ask for health and readiness all the time."""
        while True:
            self.health.dead += await self._alive()
            await self._ready()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _alive(self) -> list[str]:
        begun = time.monotonic()
        problem = "" if self.service.running else "the process has ended"
        try:
            async with self.http.get(f"{self.service.url}/healthz") as response:
                if response.status != 200:
                    problem = f"status {response.status}"
        except (aiohttp.ClientError, TimeoutError) as failure:
            problem = type(failure).__name__
        return [problem] if problem else ["too late"] if time.monotonic() - begun > DEADLINE else []

    async def _ready(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.get(f"{self.service.url}/readyz") as response:
                body = await response.json()
                self.health.stores = body["stores"]
                away = {name for name, state in body["stores"].items() if state != "ready"}
                self.health.missed |= away
                self.health.ready = response.status == 200 and not away

    def decisions(self) -> Mapping[int, tuple[str, str]]:
        """Return verdict and reason of every decision in the log, by the number of its request."""
        found = {}
        with self.service.log_file.open("rb") as lines:
            for line in lines:
                if b'"decision"' not in line:
                    continue
                entry = json.loads(line)
                if "peer_host" in entry:
                    found[number_of(entry["peer_host"])] = (entry["verdict"], entry["reason"])
        return found

    def errors(self) -> list[str]:
        """Return what it has logged as errors."""
        return [line for line in self.service.log.splitlines() if '"level": "error"' in line or "Traceback" in line]


def _step(work: Callable[[], None]) -> Step:
    async def step() -> None:
        await asyncio.to_thread(work)

    return step


@contextlib.asynccontextmanager
async def outage_house(folder: Path) -> AsyncIterator[House]:
    """Start everything; nothing is left running after the block."""
    (folder / "mongo").mkdir()
    async with contextlib.AsyncExitStack() as stack:
        mongo = await stack.enter_async_context(mongo_server(folder / "mongo"))
        cache = await stack.enter_async_context(redis_server(folder / "redis"))
        proxies = [await stack.enter_async_context(proxied(server.port)) for server in (mongo, cache)]
        # The driver must not be led around the proxy by what the replica set says of itself.
        through = settings_of(
            f"mongodb://127.0.0.1:{proxies[0].port}/?directConnection=true", f"redis://127.0.0.1:{proxies[1].port}/0"
        )
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=2 * DEADLINE)
            )
        )
        direct = await stack.enter_async_context(AsyncMongoClient[dict[str, Any]](mongo.url))
        hooks_port = free_port()
        service = Service(
            folder,
            NOBODY_LISTENS,
            http,
            Role.HOOKS,
            **through,
            hooks_port=hooks_port,
            hooks_keys=HOOK_KEY,
            hooks_deadline=DEADLINE,
            cache_seconds=CACHE_SECONDS,
            password_cost=4,
            log_decisions="all",
            log_format="json",
        )
        await service.start()
        stack.push_async_callback(_end, service)
        around = {**through, "mongo_url": mongo.url, "redis_url": cache.url}
        yield House(
            service,
            f"http://127.0.0.1:{hooks_port}",
            servers=(mongo, cache),
            proxies=(proxies[0], proxies[1]),
            http=http,
            mongo=direct,
            settings=around,
        )
        for proxy in proxies:
            proxy.heal()


async def _end(service: Service) -> None:
    if service.running:
        await service.kill()
