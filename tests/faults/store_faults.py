"""What can be done to the servers of the production profile while changes flow; each returns when all runs again."""

from __future__ import annotations

import asyncio
from typing import Literal

from tests.faults.harness import House
from tests.support.mongo import MongoServer
from tests.support.redis import RedisServer

Store = Literal["redis", "mongo"]


def _server(run: House, store: Store) -> RedisServer | MongoServer:
    return run.servers.redis if store == "redis" else run.servers.mongo


async def kill_store(run: House, store: Store, seconds: float = 0.0) -> None:
    """Kill a store with `kill -9` and start it after a while on the same data."""
    await run.hit(f"{store} killed")
    server = _server(run, store)
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.start)


async def freeze_store(run: House, store: Store, seconds: float) -> None:
    """Freeze a store for a while: its connections stay open, nobody answers."""
    await run.hit(f"{store} frozen")
    server = _server(run, store)
    server.freeze()
    await asyncio.sleep(seconds)
    server.thaw()


async def kill_service_without(run: House, store: Store) -> None:
    """Kill the service while a store is away; the service is back first."""
    await run.hit(f"{store} killed, service killed")
    server = _server(run, store)
    await asyncio.to_thread(server.kill)
    await run.service.kill()
    await run.service.start()
    await asyncio.to_thread(server.start)
