"""Change streams as a source of changes.

    events ──▶ changes ──▶ the pipeline ──▶ acknowledged ──▶ the place, in `mqtt_checkpoints`

The first start begins with what happens from then on. When the server knows the place no more, that is said (a log line, a metric,
a record in `mqtt_runs`), what changed meanwhile is read from the entities themselves, and the stream goes on from where it was
opened anew, before that reading began.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog
from bson import Timestamp

from companion.core.errors import CompanionError
from companion.core.model import Incident
from companion.core.ports import Checkpoints, Item
from companion.stores.mongo.client import MongoClient
from companion.stores.mongo.events import change_of, event_id_of
from companion.stores.mongo.letters import DeadLetters
from companion.stores.mongo.place import Catch, Place, read_place
from companion.stores.mongo.resync import Found, Resync
from companion.stores.mongo.resync_record import ResyncRecord
from companion.stores.mongo.runs import MongoRuns
from companion.stores.mongo.stream import ChangeStream, HistoryLost, Raw, Scope

log = structlog.get_logger("companion.stores.mongo")

_MARGIN_SECONDS: Final = 60
"""Clocks of those who set `updated_at` may be behind that of the cluster."""

_QUIET_SECONDS: Final = 10.0
"""How often the place is saved while nothing happens that concerns us: the history must not run out under it."""


class MongoSource:
    """The port `Source` over the change stream of `scope`; positions are places as JSON."""

    name = "mongodb"

    def __init__(
        self,
        client: MongoClient,
        checkpoints: Checkpoints,
        scope: Scope,
        batch: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._counts: Counter[Incident] = Counter()
        self.incidents: Mapping[Incident, int] = self._counts
        self._client = client
        self._checkpoints = checkpoints
        self._letters = DeadLetters(client)
        self._runs = MongoRuns(client)
        self._record: ResyncRecord | None = None
        self._scope = scope
        self._batch = batch
        self._clock = clock
        self._fence = 0
        self._place = Place({}, 0)
        self._stream: ChangeStream | None = None
        self._catching: AsyncIterator[Sequence[Found]] | None = None
        self._told = 0.0

    async def open(self, fence: int) -> None:
        """Claim the checkpoint and go there; without one, begin here and now."""
        await self.close()
        text = await self._checkpoints.claim(self.name, fence)
        self._fence = fence
        if text is None:
            stream = ChangeStream(self._client, self._scope)
            self._place = Place(await stream.open(), int(self._clock()))
            self._stream = stream
            # Before anything is read: who dies now must not begin later than here.
            await self._checkpoints.save(self.name, self._place.text(), fence)
        else:
            self._place = read_place(text)

    async def read(self, limit: int) -> Sequence[Item]:
        """Return what follows; with nothing new, wait up to a second."""
        if self._place.catch is not None:
            return await self._catch_up(self._place.catch)
        if self._stream is None:
            self._stream = ChangeStream(self._client, self._scope, self._place.token)
        try:
            batch = await self._stream.read(limit)
        except HistoryLost as problem:
            await self._lost(str(problem))
            return []
        items = [await self._item(raw) for raw in batch.events]
        if batch.token is not None and not items and batch.token != self._place.token:
            self._place = Place(batch.token, int(self._clock()))
            if time.monotonic() - self._told >= _QUIET_SECONDS:
                self._told = time.monotonic()
                items.append(Item(self._place.text(), None))
        return items

    async def acknowledge(self, acknowledged: Sequence[tuple[str, int]]) -> None:
        """Nothing to note: the place says it all."""

    async def save(self, position: str) -> None:
        """Save the place."""
        await self._checkpoints.save(self.name, position, self._fence)

    async def bury(self, item: Item, reason: str) -> None:
        """Keep the change as a dead letter."""
        if (change := item.change) is not None:
            await self._letters.put(change.event_id, self.name, f"{change.db}.{change.collection}", change.id, reason)

    async def backlog(self) -> int | None:
        """Nobody can tell."""
        return None

    async def close(self) -> None:
        """Let go of the stream."""
        stream, self._stream = self._stream, None
        await self._stop_catching()
        if stream is not None:
            await stream.close()

    async def _item(self, raw: Raw) -> Item:
        event_time = (raw.document or {}).get("clusterTime")
        seconds = event_time.time if isinstance(event_time, Timestamp) else self._place.time
        self._place = Place(raw.token, seconds)
        self._told = time.monotonic()
        position = self._place.text()
        if raw.document is None:
            await self._undecodable(event_id_of(raw.token), raw.namespace, raw.key, raw.problem)
            return Item(position, None)
        kind = raw.document["operationType"]
        if kind in {"drop", "rename", "dropDatabase"}:
            log.warning(
                "a watched collection is gone: of its documents nothing is told", ns=raw.document.get("ns"), op=kind
            )
        try:
            return Item(position, change_of(raw.document))
        except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as problem:
            ns, key = raw.document.get("ns") or {}, raw.document.get("documentKey") or {}
            await self._undecodable(
                event_id_of(raw.token),
                f"{ns.get('db', '')}.{ns.get('coll', '')}",
                str(key.get("_id", "")),
                f"the event cannot be understood ({type(problem).__name__})",
            )
            return Item(position, None)

    async def _undecodable(self, event_id: str, namespace: str, key: str, problem: str) -> None:
        log.error("a change cannot be read: it is a dead letter", namespace=namespace, key=key, problem=problem)
        await self._letters.put(event_id, self.name, namespace, key, problem)
        self._counts[Incident.UNREADABLE] += 1

    async def _lost(self, problem: str) -> None:
        """Open the stream anew and go over to looking for what changed since the place that was lost."""
        await self.close()
        stream = ChangeStream(self._client, self._scope)
        token = await stream.open()
        now = int(self._clock())
        catch = Catch(max(0, self._place.time - _MARGIN_SECONDS), now)
        log.error(
            "the history of changes is lost: what changed since is looked for", since=catch.since, problem=problem
        )
        self._record = ResyncRecord(self._runs, catch, self._fence, problem)
        await self._record.found(0)
        self._counts[Incident.HISTORY_LOST] += 1
        self._place = Place(token, now, catch)
        # The cursor may be idle for longer than the server keeps it; the place will do.
        await stream.close()

    async def _catch_up(self, catch: Catch) -> Sequence[Item]:
        if self._catching is None:
            self._catching = Resync(self._client, self._scope, self._batch, catch).batches()
        try:
            found = await anext(self._catching, None)
        except CompanionError:
            await self._stop_catching()
            raise
        if found is None:
            self._catching = None
            await self._recording(catch).ended()
            self._place = replace(self._place, catch=None)
            log.info("what changed meanwhile was looked for", since=catch.since, until=catch.until)
            return [Item(self._place.text(), None)]
        items = []
        for one in found:
            self._place = replace(self._place, catch=one.catch)
            if one.change is None:
                event_id = f"r-{one.namespace}:{one.key}"
                await self._undecodable(event_id, one.namespace, one.key, one.problem)
            items.append(Item(self._place.text(), one.change))
        if found:
            await self._recording(catch).found(len(found))
            self._counts[Incident.RESYNCHRONISED] += len(found)
        return items

    def _recording(self, catch: Catch) -> ResyncRecord:
        if self._record is None:
            self._record = ResyncRecord(self._runs, catch, self._fence)
        return self._record

    async def _stop_catching(self) -> None:
        catching, self._catching, self._record = self._catching, None, None
        if catching is not None:
            with contextlib.suppress(CompanionError):
                await catching.aclose()  # type: ignore[attr-defined]
