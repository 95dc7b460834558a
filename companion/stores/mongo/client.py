"""A connection to a MongoDB replica set, and its errors in our words."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import pymongo
from bson.errors import BSONError
from pymongo import AsyncMongoClient, errors
from pymongo.write_concern import WriteConcern

from companion.breaker import Breaker
from companion.core.errors import CompanionError, Invalid, Permanent, Transient

T = TypeVar("T")

NAME: Final = "mongodb"
_MOST_CONNECTIONS: Final = 50
_END_SECONDS: Final = 5.0
_CANNOT_BE_STORED: Final = (errors.InvalidOperation, errors.DocumentTooLarge, BSONError, OverflowError, UnicodeError)
_REFUSED_FOR_GOOD: Final = (errors.ConfigurationError, errors.CollectionInvalid, errors.InvalidName)
_AWAY_CODES: Final = frozenset(
    {6, 7, 13, 18, 50, 63, 89, 91, 112, 189, 211, 246, 251, 262, 317, 9001, 10107, 11600, 11602, 13435, 13436}
)
"""Error codes that may be over soon: network, step-downs, time-outs, write conflicts, and credentials that somebody mends."""


@dataclass(frozen=True, slots=True)
class MongoConfig:
    """Where MongoDB is; `timeout` is that of a command in seconds."""

    url: str = field(repr=False)
    database: str = "companion"
    timeout: float = 1.0


class MongoClient:
    """Runs commands; every failure is `Transient` or `Permanent`, and none takes much longer than the timeout."""

    def __init__(self, driver: AsyncMongoClient[dict[str, Any]], config: MongoConfig) -> None:
        self.driver = driver
        self.database = driver.get_database(config.database, write_concern=WriteConcern("majority", j=True))
        self.timeout = config.timeout
        self.closed = False
        self._under_way: set[asyncio.Future[Any]] = set()
        self._breaker = Breaker(NAME)

    async def call(self, work: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
        """Do some commands within `seconds`, by default the command timeout. `DuplicateKeyError` passes: it is an answer."""
        return await self._breaker.call(lambda: self._guarded(work, seconds or self.timeout))

    async def _guarded(self, work: Callable[[], Awaitable[T]], seconds: float) -> T:
        if self.closed:
            # The driver would connect anew, and nobody would close that.
            raise Permanent(f"{NAME}: the store is closed")
        try:
            if seconds <= self.timeout:
                return await self._within(seconds * 1.5, work)
            # A command may take long; a server that is away is not waited for that long.
            await self._within(self.timeout * 1.5, lambda: self.database.command("ping"))

            async def long_work() -> T:
                # Without it a socket would be given up after the timeout of a common command.
                with pymongo.timeout(seconds):
                    return await work()

            return await self._within(seconds * 1.5, long_work)
        except errors.DuplicateKeyError:
            raise
        except (
            errors.ConnectionFailure,
            errors.WaitQueueTimeoutError,
            errors.ExecutionTimeout,
            TimeoutError,
        ) as problem:
            raise Transient(f"{NAME}: {_one_line(problem)}") from None
        except _CANNOT_BE_STORED as problem:
            raise Permanent(f"{NAME}: this cannot be stored ({type(problem).__name__})") from None
        except errors.OperationFailure as problem:
            kind = Transient if problem.code in _AWAY_CODES or _may_be_repeated(problem) else Permanent
            raise kind(f"{NAME}: {_one_line(problem)}") from None
        except errors.PyMongoError as problem:
            kind = Transient if _may_be_repeated(problem) else Permanent
            raise kind(f"{NAME}: {_one_line(problem)}") from None

    async def _within(self, seconds: float, work: Callable[[], Awaitable[T]]) -> T:
        """Wait so long for the work, which is never cancelled: it ends by the driver's own time-outs.

        PyMongo does not bear a cancellation before Python 3.12, where `asyncio.wait_for` neither waits for what it gives up when
        it is cancelled at the moment of its own time-out, nor tells of a cancellation that comes as it ends: the lock of the
        topology could stay held, so that a MongoDB that was away was never found back. It also leaves connections open that are
        being made.
        """
        task = asyncio.ensure_future(work())
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        async with asyncio.timeout(seconds):
            return await asyncio.shield(task)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits gets it; nobody else needs to hear of it

    async def end(self) -> None:
        """Take no more calls, and wait a moment for those under way."""
        self.closed = True
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=_END_SECONDS)
        for task in self._under_way:
            task.cancel()

    async def trouble(self) -> str | None:
        """Return in one line why MongoDB cannot serve, or None."""
        try:
            await self.call(lambda: self.database.command("ping"))
        except CompanionError as problem:
            return str(problem)
        return None


def _may_be_repeated(problem: errors.PyMongoError) -> bool:
    return any(
        problem.has_error_label(label)
        for label in ("TransientTransactionError", "RetryableWriteError", "ResumableChangeStreamError")
    )


def _one_line(problem: BaseException) -> str:
    if isinstance(problem, TimeoutError):
        return "no answer in time"
    # The topology that the driver appends is as long as the replica set is large.
    return (
        " ".join(str(problem).partition(", Timeout:")[0].partition(", full error:")[0].split())
        or type(problem).__name__
    )


@contextlib.asynccontextmanager
async def open_mongo(config: MongoConfig) -> AsyncIterator[MongoClient]:
    """Make a client until the block ends. Nobody is asked yet: MongoDB may come later.

    Raises `Invalid` for an address that cannot be understood.
    """
    milliseconds = int(config.timeout * 1000)
    try:
        driver: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            config.url,
            appname="companion",
            tz_aware=True,
            datetime_conversion="DATETIME_AUTO",
            uuidRepresentation="standard",
            maxPoolSize=_MOST_CONNECTIONS,
            serverSelectionTimeoutMS=milliseconds,
            connectTimeoutMS=milliseconds,
            socketTimeoutMS=milliseconds,
            waitQueueTimeoutMS=milliseconds,
            # How a replica set that is away is found back; the default of ten seconds is longer than anybody waits.
            heartbeatFrequencyMS=1000,
        )
    except (errors.ConfigurationError, errors.InvalidURI, ValueError, TypeError):
        raise Invalid(
            "mongo_url", "***", "mongodb://user:password@host:port,…/?replicaSet=name or mongodb+srv://"
        ) from None
    client = MongoClient(driver, config)
    try:
        yield client
    finally:
        await client.end()
        await driver.close()
