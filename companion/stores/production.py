"""The production profile as one store: MongoDB for what is looked up and kept, Redis for what replicas share."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Final, Self

import structlog

from companion.anonymizing import ID, accounts_in_force, traces_in_force
from companion.background import background
from companion.core.errors import CompanionError
from companion.core.model import Lookup
from companion.core.ports import Mirror, Notices, Observed, Proofs, Source, Watcher
from companion.core.stats import Counting
from companion.settings import Settings
from companion.stores import mongo, redis
from companion.stores.announcing import (
    AnnouncingAccounts,
    AnnouncingRevocations,
    AnnouncingRules,
    AnnouncingSessions,
    AnnouncingTokens,
)
from companion.stores.counters import FallbackCounters, LocalCounters
from companion.stores.findings import Finding
from companion.stores.joining import JoinedNotices
from companion.stores.lockouts import FallbackLockouts, LocalLockouts
from companion.stores.mongo import MongoClient, MongoConfig, indexes, open_mongo
from companion.stores.mongo.account_changes import MongoAccountChanges
from companion.stores.mongo.accounts import MongoAccounts
from companion.stores.mongo.audits import MongoAudits
from companion.stores.mongo.checkpoints import MongoCheckpoints
from companion.stores.mongo.documents import MongoDocuments
from companion.stores.mongo.gathering import GatheredAccounts, GatheredRules
from companion.stores.mongo.hot import hot_collections
from companion.stores.mongo.meaning import Meanings
from companion.stores.mongo.notices import MongoNotices
from companion.stores.mongo.observed import broker_events, decisions, entities
from companion.stores.mongo.presence import MongoPresence
from companion.stores.mongo.revocations import MongoRevocations
from companion.stores.mongo.rules import MongoRules
from companion.stores.mongo.runs import MongoRuns
from companion.stores.mongo.sessions import MongoSessions
from companion.stores.mongo.source import MongoSource
from companion.stores.mongo.stats import MongoStats
from companion.stores.mongo.tokens import MongoTokens
from companion.stores.mongo.uses import MongoUses
from companion.stores.mongo.watcher import MongoWatcher
from companion.stores.mongo.watching import observed_scope, scope_of
from companion.stores.nearby import HeardNotices, Nearby
from companion.stores.proofs import QuickProofs
from companion.stores.redis import RedisClient, RedisConfig, open_redis
from companion.stores.redis.checkpoints import RedisCheckpoints
from companion.stores.redis.counters import RedisCounters
from companion.stores.redis.durability import losses
from companion.stores.redis.facts import RedisFacts
from companion.stores.redis.inbox import RedisInbox
from companion.stores.redis.leases import RedisLeases
from companion.stores.redis.lockouts import RedisLockouts
from companion.stores.redis.mirror import RedisMirror
from companion.stores.redis.notices import RedisNotices
from companion.stores.redis.proofs import RedisProofs
from companion.stores.redis.stats import RedisTally
from companion.stores.statistics import BufferedStatistics

log = structlog.get_logger("companion.stores.production")

_AGAIN_SECONDS: Final = (0.5, 30.0)
_FINISH_SECONDS: Final = 5.0


class ProductionStore:
    """The port `Store` over MongoDB and Redis."""

    hooks_need: Collection[str] = frozenset({mongo.NAME})

    def __init__(self, mongo_client: MongoClient, redis_client: RedisClient, settings: Settings) -> None:
        self._mongo = mongo_client
        self._redis = redis_client
        self._settings = settings
        meanings = Meanings(settings.mongo_database, settings.mongo_accounts, settings.mongo_rules)
        mirror = RedisMirror(redis_client)
        hots = hot_collections(settings.mongo_database, settings.mongo_accounts, settings.mirror_collections)
        self._nearby = Nearby(mirror, hots) if hots else None
        self.notices: Notices = JoinedNotices(RedisNotices(redis_client), MongoNotices(mongo_client, meanings).follow)
        if self._nearby is not None:
            self.notices = HeardNotices(self.notices, self._nearby)
        accounts = GatheredAccounts(MongoAccounts(mongo_client), mongo_client, settings.mongo_accounts, self._nearby)
        self.accounts = AnnouncingAccounts(accounts, self.notices)
        rules = GatheredRules(MongoRules(mongo_client), mongo_client, settings.mongo_rules)
        self.rules = AnnouncingRules(rules, self.notices)
        self.sessions = AnnouncingSessions(MongoSessions(mongo_client), self.notices)
        self.revocations = AnnouncingRevocations(MongoRevocations(mongo_client), self.notices)
        self.account_changes = MongoAccountChanges(mongo_client, settings.mongo_accounts)
        self.tokens = AnnouncingTokens(MongoTokens(mongo_client), self.notices)
        self.uses = MongoUses(mongo_client)
        self.audits = MongoAudits(mongo_client)
        self.presence = MongoPresence(mongo_client)
        self.runs = MongoRuns(mongo_client)
        self.documents = MongoDocuments(mongo_client)
        self.counters = FallbackCounters(RedisCounters(redis_client), LocalCounters())
        self.lockouts = FallbackLockouts(RedisLockouts(redis_client), LocalLockouts())
        self.proofs: Proofs | None = QuickProofs(RedisProofs(redis_client))
        self.leases = RedisLeases(redis_client)
        counting = settings.counting() if settings.observer else None
        self.inbox = RedisInbox(redis_client, counting, settings.observer_facts)
        self.checkpoints = RedisCheckpoints(redis_client)
        self.mirror: Mirror | None = mirror
        self.watcher: Watcher | None = MongoWatcher(mongo_client, mirror, hots) if hots else None
        self.statistics = BufferedStatistics(
            RedisTally(redis_client), MongoStats(mongo_client, settings.stats_collection)
        )
        self.sources: Sequence[Source] = ()
        if settings.changes_watch:
            checkpoints = MongoCheckpoints(mongo_client)
            watched = scope_of(settings.changes_watch, settings.mongo_database)
            self.sources = (MongoSource(mongo_client, checkpoints, watched, settings.changes_resync_batch),)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Open both until the block ends; one that is away is waited for by whoever needs it.

        Raises `Invalid` for an address that cannot be understood.
        """
        idle = asyncio.Event()

        async def finish() -> None:
            # The driver leaves a connection open that is cancelled while it is made.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FINISH_SECONDS):
                    await idle.wait()

        async with (
            opened_clients(settings) as (mongo_client, redis_client),
            background(_keep_indexes(mongo_client, _indexes(settings), idle), finish=finish),
        ):
            yield cls(mongo_client, redis_client, settings)

    def observed(self, counting: Counting) -> Sequence[Observed]:
        """Return what is counted: what was taken into the inbox, what is watched, the audit records and the broker's events."""
        watched = observed_scope(
            self._settings.changes_watch, self._mongo.database.name, self._settings.stats_collection
        )
        found: list[Observed] = [RedisFacts(self._redis)]
        if watched is not None:
            found.append(entities(self._mongo, watched, counting))
        if counting.decisions:
            found.append(decisions(self._mongo))
        if counting.events:
            found.append(broker_events(self._mongo))
        return found

    def tell_lookups(self, told: Callable[[Lookup], None]) -> None:
        """Tell from now on what every look into the mirror came to."""
        if self._nearby is not None:
            self._nearby.told = told

    async def troubles(self) -> Mapping[str, str | None]:
        """Ask both whether they can serve."""
        of_mongo, of_redis = await asyncio.gather(self._mongo.trouble(), self._redis.trouble())
        return {mongo.NAME: of_mongo, redis.NAME: of_redis}


@contextlib.asynccontextmanager
async def opened_clients(settings: Settings) -> AsyncIterator[tuple[MongoClient, RedisClient]]:
    """Make the clients of both until the block ends. Raises `Invalid` for an address that cannot be understood."""
    to_mongo = MongoConfig(settings.mongo_url.get_secret_value(), settings.mongo_database, settings.mongo_timeout)
    to_redis = RedisConfig(
        settings.redis_url.get_secret_value(),
        settings.redis_prefix,
        settings.redis_mode,
        settings.redis_nodes,
        settings.redis_service,
        settings.redis_ca_file,
        settings.redis_timeout,
    )
    async with open_mongo(to_mongo) as mongo_client, open_redis(to_redis) as redis_client:
        yield mongo_client, redis_client


async def look_at_both(settings: Settings) -> Sequence[Finding]:
    """Look at everything that the two stores need, and change nothing."""
    async with opened_clients(settings) as (mongo_client, redis_client):
        found = []
        for name, look in (
            (mongo.NAME, _look_at_mongo(mongo_client, _indexes(settings))),
            (redis.NAME, _look_at_redis(redis_client)),
        ):
            try:
                found += [Finding(name, "can be reached", None), *await look]
            except CompanionError as problem:
                found.append(Finding(name, "can be looked at", str(problem)))
        return found


async def _look_at_mongo(client: MongoClient, wanted: Sequence[indexes.Index]) -> Sequence[Finding]:
    missing = await indexes.missing(client, wanted)
    unpictured = await indexes.without_pictures(client)
    pictures = Finding(
        mongo.NAME,
        f"pre-images of {', '.join(indexes.PICTURED)}: tell whose account was removed",
        f"missing for {', '.join(unpictured)}: a start of the service asks for them (MongoDB 6)"
        if unpictured
        else None,
    )
    return [pictures] + [
        Finding(
            mongo.NAME,
            f"index {index.name} of {index.place}: {index.purpose}",
            "missing: a start of the service makes it" if index in missing else None,
        )
        for index in wanted
    ]


async def _look_at_redis(client: RedisClient) -> Sequence[Finding]:
    problems = await losses(client)
    return [Finding(redis.NAME, "keeps what it was given", problem) for problem in problems or (None,)]


def _indexes(settings: Settings) -> Sequence[indexes.Index]:
    statistics = settings.stats_collection if settings.observer else ""
    return indexes.wanted(settings.mongo_accounts, settings.mongo_rules, statistics, _traces(settings))


def _traces(settings: Settings) -> Sequence[tuple[str, tuple[str, ...]]]:
    """Return by which fields of which collections the anonymizer looks for what accounts have left, where it does."""
    if not settings.anonymizer_key.get_secret_value():
        return ()
    traces = traces_in_force(settings.anonymizer_traces, settings.stats_collection)
    accounts = accounts_in_force(settings.anonymizer_accounts)
    return [
        # With the id behind it a page is found where the last one ended.
        *((table.collection, (field, ID)) for table in traces.values() for field in table.by),
        *((table.collection, (name,)) for table in accounts.values() for name in table.names if name != ID),
    ]


async def _keep_indexes(client: MongoClient, wanted: Sequence[indexes.Index], idle: asyncio.Event) -> None:
    """Make the indexes as soon as MongoDB can be reached; `idle` is set while no attempt is under way."""
    pause, longest = _AGAIN_SECONDS
    while True:
        idle.clear()
        try:
            await indexes.ensure(client, wanted)
        except CompanionError as problem:
            log.warning("indexes are not ensured yet", problem=str(problem))
        else:
            return
        finally:
            idle.set()
        await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing
        pause = min(pause * 2, longest)
