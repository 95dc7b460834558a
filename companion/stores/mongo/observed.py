"""Change streams as they are counted: that of the entities, those of the audit records and the broker's events.

The place is kept with the counters, not here, so that every event is counted once. When the server knows the place no more,
counting goes on from now: what happened meanwhile cannot be told from what was counted, so it is not guessed at, but logged and
counted as lost (one for the gap). An event that cannot be read is lost as well; the publisher keeps it as a dead letter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from bson import Timestamp

from companion.core.ports import Seen
from companion.core.stats import Counting, Fact
from companion.core.stats_decisions import fact_of
from companion.core.stats_events import fact_of as fact_of_event
from companion.stores.mongo.audits import COLLECTION, audit_of
from companion.stores.mongo.client import MongoClient
from companion.stores.mongo.events import Event, change_of
from companion.stores.mongo.place import Place, read_place
from companion.stores.mongo.presence import EVENTS, event_of
from companion.stores.mongo.stream import ChangeStream, HistoryLost, Raw, Scope, Token

log = structlog.get_logger("companion.stores.mongo")

NAME: Final = "stream"
AUDITS: Final = "audits"
BROKER_EVENTS: Final = "events"
_QUIET_SECONDS: Final = 10.0
"""How often the place is told while nothing happens that concerns us: the history must not run out under it."""


class StreamObserved:
    """The port `Observed` over the change stream of `scope`; positions are places as JSON."""

    def __init__(
        self,
        client: MongoClient,
        scope: Scope,
        fact: Callable[[Event], Fact | None],
        name: str = NAME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.lost = 0
        self._client = client
        self._scope = scope
        self._fact_of = fact
        self._clock = clock
        self._stream = ChangeStream(client, scope)
        self._told = 0.0

    async def open(self, position: str | None) -> str | None:
        """Go behind this place; without one, begin here and now, and say where that is."""
        await self.close()
        token = None if position is None else read_place(position).token
        self._stream = ChangeStream(self._client, self._scope, token)
        return self._text(await self._stream.open(), int(self._clock())) if position is None else None

    async def read(self, limit: int) -> Sequence[Seen]:
        """Return what follows; with nothing new, wait up to a second."""
        before = self._stream.place
        try:
            batch = await self._stream.read(limit)
        except HistoryLost as problem:
            log.error("the history of changes is lost: what happened meanwhile is not counted", problem=str(problem))
            self.lost += 1
            await self.close()
            self._stream = ChangeStream(self._client, self._scope)
            return [Seen(self._text(await self._stream.open(), int(self._clock())), None)]
        seen = [self._seen(raw) for raw in batch.events]
        quiet = batch.token is not None and batch.token != before and not seen
        if seen or (quiet and time.monotonic() - self._told >= _QUIET_SECONDS):
            self._told = time.monotonic()
        else:
            quiet = False
        if quiet and batch.token is not None:
            seen.append(Seen(self._text(batch.token, int(self._clock())), None))
        return seen

    async def settled(self, position: str) -> None:
        """Nothing is kept."""

    async def close(self) -> None:
        """Let go of the stream."""
        await self._stream.close()

    def _seen(self, raw: Raw) -> Seen:
        event_time = (raw.document or {}).get("clusterTime")
        seconds = event_time.time if isinstance(event_time, Timestamp) else int(self._clock())
        return Seen(self._text(raw.token, seconds), self._fact(raw))

    def _fact(self, raw: Raw) -> Fact | None:
        if raw.document is not None:
            try:
                return self._fact_of(raw.document)
            except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as problem:
                log.error("a change cannot be understood: it is not counted", problem=type(problem).__name__)
        else:
            log.error("a change cannot be read: it is not counted", namespace=raw.namespace, key=raw.key)
        self.lost += 1
        return None

    @staticmethod
    def _text(token: Token, seconds: int) -> str:
        return Place(token, seconds).text()


def entities(client: MongoClient, scope: Scope, counting: Counting) -> StreamObserved:
    """Return the stream of the entities."""

    def fact(event: Event) -> Fact | None:
        change = change_of(event)
        return None if change is None else counting.fact(change)

    return StreamObserved(client, scope, fact)


def decisions(client: MongoClient) -> StreamObserved:
    """Return the stream of the audit records: of several writers, only it tells an order in which none is missed."""

    def fact(event: Event) -> Fact | None:
        return fact_of(audit_of(event["fullDocument"])) if event["operationType"] == "insert" else None

    scope = Scope(collections=frozenset({(client.database.name, COLLECTION)}))
    return StreamObserved(client, scope, fact, AUDITS)


def broker_events(client: MongoClient) -> StreamObserved:
    """Return the stream of the broker's events."""

    def fact(event: Event) -> Fact | None:
        return fact_of_event(event_of(event["fullDocument"])) if event["operationType"] == "insert" else None

    scope = Scope(collections=frozenset({(client.database.name, EVENTS)}))
    return StreamObserved(client, scope, fact, BROKER_EVENTS)
