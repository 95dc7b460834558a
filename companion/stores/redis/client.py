"""A connection to Redis: alone, behind Sentinels, or a cluster; and its errors in our words."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from companion.breaker import Breaker
from companion.core.errors import CompanionError, Invalid, Permanent, Transient
from companion.stores.cancelling import cancellable
from companion.stores.redis.keys import Keys

T = TypeVar("T")

NAME: Final = "redis"
_MOST_CONNECTIONS: Final = 64
_END_SECONDS: Final = 5.0
_AWAY: Final = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
    exceptions.OutOfMemoryError,
    exceptions.RedisClusterException,
    OSError,
    TimeoutError,
)
"""What may be over soon. Among them refused credentials: whoever mends them should not have to restart us as well."""


@dataclass(frozen=True, slots=True)
class RedisConfig:
    """Where Redis is. `nodes` are further Sentinels or cluster nodes, as host:port; `timeout` is that of a command in seconds."""

    url: str = field(repr=False)
    prefix: str = "companion"
    mode: Literal["standalone", "sentinel", "cluster"] = "standalone"
    nodes: tuple[str, ...] = ()
    service: str = "mymaster"
    ca_file: Path | None = None
    timeout: float = 0.5


class RedisClient:
    """Runs commands and scripts; every failure is `Transient` or `Permanent`, and none takes much longer than the timeout."""

    def __init__(self, redis: Any, config: RedisConfig) -> None:  # noqa: ANN401 - Redis or RedisCluster: the same commands
        self.redis = redis
        self.keys = Keys(config.prefix)
        self.timeout = config.timeout
        self.closed = False
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._breaker = Breaker(NAME)

    async def call(self, work: Callable[[Any], Awaitable[T]], seconds: float | None = None) -> T:
        """Do some commands on the client within `seconds`, by default the command timeout."""
        self._calls += 1
        self._idle.clear()
        try:
            return await self._breaker.call(lambda: self._guarded(work, seconds or self.timeout))
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def end(self) -> None:
        """Take no more calls, and wait a moment for those under way: a pool closed under them would open again for them."""
        self.closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await self._idle.wait()

    async def _guarded(self, work: Callable[[Any], Awaitable[T]], seconds: float) -> T:
        if self.closed:
            # The driver would connect anew, and nobody would close that.
            raise Permanent(f"{NAME}: the store is closed")
        try:
            async with asyncio.timeout(seconds * 1.5):
                return await cancellable(work(self.redis))
        except _AWAY as problem:
            raise Transient(f"{NAME}: {_one_line(problem)}") from None
        except RuntimeError as problem:
            if "closed" not in str(problem):
                raise
            # uvloop's word for a write on a connection that was reset since the pool has looked at it.
            raise Transient(f"{NAME}: the connection was lost") from None
        except exceptions.ResponseError as problem:
            raise Permanent(f"{NAME}: {_one_line(problem)}") from None
        except (exceptions.RedisError, UnicodeError) as problem:
            raise Permanent(f"{NAME}: {_one_line(problem)}") from None

    async def trouble(self) -> str | None:
        """Return in one line why Redis cannot serve, or None."""
        try:
            await self.call(lambda redis: redis.ping())
        except CompanionError as problem:
            return str(problem)
        return None


def _one_line(problem: BaseException) -> str:
    if isinstance(problem, TimeoutError | exceptions.TimeoutError):
        return "no answer in time"
    return " ".join(str(problem).split()) or type(problem).__name__


@contextlib.asynccontextmanager
async def open_redis(config: RedisConfig) -> AsyncIterator[RedisClient]:
    """Make a client until the block ends. Nobody is asked yet: Redis may come later.

    Raises `Invalid` for an address that cannot be understood.
    """
    try:
        redis, closing = _connect(config)
    except ValueError as problem:
        raise Invalid("redis_url", "***", f"redis://user:password@host:port/0 or rediss:// ({problem})") from None
    client = RedisClient(redis, config)
    try:
        yield client
    finally:
        await client.end()
        for close in closing:
            with contextlib.suppress(*_AWAY, exceptions.RedisError):
                await close()


def _connect(config: RedisConfig) -> tuple[Any, list[Callable[[], Awaitable[None]]]]:
    parts = urlsplit(config.url)
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("another scheme")
    options: dict[str, Any] = {
        "socket_timeout": config.timeout,
        "socket_connect_timeout": config.timeout,
        # Whether and when to try again is for the breaker, and for whoever asked, to decide.
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": False,
    }
    if parts.scheme == "rediss" and config.ca_file is not None:
        options["ssl_ca_certs"] = str(config.ca_file)
    if config.mode == "standalone":
        pool = BlockingConnectionPool.from_url(
            config.url, max_connections=_MOST_CONNECTIONS, timeout=config.timeout, **options
        )
        return Redis(connection_pool=pool), [pool.aclose]
    nodes = [(parts.hostname or "localhost", parts.port), *(_host_port(node) for node in config.nodes)]
    access: dict[str, Any] = {"username": parts.username, "password": parts.password}
    if parts.scheme == "rediss":
        access["ssl"] = True
    if config.mode == "cluster":
        cluster = RedisCluster(
            startup_nodes=[ClusterNode(host, port or 6379) for host, port in nodes],
            max_connections=_MOST_CONNECTIONS,
            **access,
            **(options | {"retry": Retry(NoBackoff(), 1)}),
        )
        return cluster, [cluster.aclose]
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [(host, port or 26379) for host, port in nodes],
        sentinel_kwargs=options,
        **access,
        **options,
    )
    master = sentinel.master_for(config.service, db=int(parts.path.strip("/") or 0))
    return master, [master.aclose, *(one.aclose for one in sentinel.sentinels)]


def _host_port(node: str) -> tuple[str, int | None]:
    host, colon, port = node.rpartition(":")
    return (host, int(port)) if colon else (node, None)
