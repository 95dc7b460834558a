"""Whether Redis keeps what it was given: the inbox rests on it."""

from __future__ import annotations

from typing import Any

from companion.stores.redis.client import RedisClient

_WAITAOF = (7, 2)


async def losses(client: RedisClient) -> list[str]:
    """Return in one line each what could be lost, and the setting of Redis that would keep it; nothing when all is well.

    Raises `Transient` while Redis is away, `Permanent` where our user may not ask.
    """

    async def look(redis: Any) -> list[str]:  # noqa: ANN401 - Redis or RedisCluster
        info = await redis.info("persistence")
        version = tuple(int(part) for part in (await redis.info("server"))["redis_version"].split(".")[:2])
        found = []
        if not info["aof_enabled"]:
            found.append("changes that were answered with 202 are lost with the process: set appendonly yes")
        elif version < _WAITAOF and await _setting(redis, "appendfsync") != "always":
            found.append("up to a second of changes is lost with the machine: set appendfsync always, or use Redis 7.2")
        policy = await _setting(redis, "maxmemory-policy")
        if policy != "noeviction" and int(await _setting(redis, "maxmemory")):
            found.append(f"changes may be thrown away when memory is short (maxmemory-policy {policy}): set noeviction")
        return found

    return await client.call(look)


async def _setting(redis: Any, name: str) -> str:  # noqa: ANN401 - Redis or RedisCluster
    return str((await redis.config_get(name))[name])
