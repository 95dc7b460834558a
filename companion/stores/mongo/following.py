"""The follower of the mirror: events become copies, and what cannot be followed is copied anew.

    beat ──▶ events, to the mirror ──▶ the beat's own event: the mirror is as the store was at that beat ──▶ it may be read

A beat is the writing of our place, into a collection that the same stream shows. Once it comes back, everything before it has:
that alone proves that we are not behind, and from the moment before the beat the mirror may be read for `SERVED_SECONDS`. Who is
cut off, slow or suspended sees no beats, and the mirror falls silent by itself.

A collection that is new, or whose history was lost, is read from end to end into a new generation, while its events go there as
well; versions say what is newer. It is promoted once a beat that began after its end was seen. Who dies on the way begins it anew.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import structlog
from bson import ObjectId, Timestamp

from companion.core.errors import Forgotten, Transient
from companion.core.model import Rebuild
from companion.core.ports import Checkpoints, Copy, Mirror, Onlooker
from companion.stores.mongo.client import MongoClient
from companion.stores.mongo.hot import OBJECT_ID, TEXT, Hot, mirrored_id, version_of, version_read_at
from companion.stores.mongo.mapping import ID
from companion.stores.mongo.meaning import root_of, touched_by
from companion.stores.mongo.mirror_place import CHECKPOINT, COLLECTION, REBUILD, MirrorPlace, read_mirror_place
from companion.stores.mongo.ranges import operation_time, read_range
from companion.stores.mongo.stream import Batch, ChangeStream, HistoryLost, Raw, Scope

log = structlog.get_logger("companion.stores.mongo")

T = TypeVar("T")

SERVED_SECONDS: Final = 5.0
"""What is read from the mirror is never older than this."""

_BEAT_SECONDS: Final = 1.0
_READ: Final = 1000
_PUT: Final = 200
"""While Redis takes this many copies it does nothing else."""

_BACKOFF: Final = (0.1, 2.0)
_CHANGES: Final = frozenset({"insert", "update", "replace", "delete"})


@dataclass(slots=True)
class _Fill:
    """A generation that is being filled, up to `after`; `until` is the beat with which it is whole, once all was read."""

    generation: int
    after: str = ""
    number: int = 0
    until: int | None = None


@dataclass(slots=True)
class _Kept:
    """One collection. `number` is that of the last put into what is read; None while that cannot be read."""

    hot: Hot
    number: int | None
    wanted: bool = False
    fill: _Fill | None = None


class Following:
    """One term of the follower."""

    def __init__(
        self,
        *,
        client: MongoClient,
        mirror: Mirror,
        checkpoints: Checkpoints,
        hots: Sequence[Hot],
        fence: int,
        onlooker: Onlooker,
        batch: int,
    ) -> None:
        self._client = client
        self._mirror = mirror
        self._checkpoints = checkpoints
        self._fence = fence
        self._onlooker = onlooker
        self._batch = batch
        self._beats = (client.database.name, COLLECTION)
        self._scope = Scope(collections=frozenset({self._beats, *(hot.namespace for hot in hots)}))
        self._stream = ChangeStream(client, self._scope)
        self._place = MirrorPlace()
        self._kept = {hot.namespace: _Kept(hot, None) for hot in hots}
        self._gone: list[str] = []
        self._emptied: set[str] = set()
        self._sweeping: list[str] = []
        self._since: dict[int, tuple[float, Mapping[str, int]]] = {}
        self._next_beat = 0.0
        self._seen = Timestamp(0, 0)
        self._ordinal = 0

    async def run(self) -> None:
        """Follow; never returns."""
        await self._begin()
        try:
            while True:
                await self._beat()
                await self._take(await self._read())
                await self._work()
        finally:
            await self._stream.close()

    async def _begin(self) -> None:
        """Go where the last one was."""
        text = await _patiently(lambda: self._checkpoints.claim(CHECKPOINT, self._fence))
        self._place = MirrorPlace() if text is None else read_mirror_place(text)
        self._seen = self._place.seen
        self._stream = ChangeStream(self._client, self._scope, self._place.token)
        for kept in self._kept.values():
            kept.number = self._place.kept.get(kept.hot.place)
            if kept.number is None or kept.hot.place in self._place.building:
                self._rebuild(kept, Rebuild.NEW)
        known = {kept.hot.place for kept in self._kept.values()}
        self._gone = [name for name in self._place.kept if name not in known]
        self._sweeping = sorted(known)
        try:
            await _patiently(self._stream.open)
        except HistoryLost as problem:
            await self._lost(str(problem))

    async def _beat(self) -> None:
        """Save our place, when it is time to; all that was read is in the mirror."""
        if time.monotonic() < self._next_beat:
            return
        begun = time.monotonic()
        places = [kept.hot.place for kept in self._kept.values()]
        clocks = await _patiently(lambda: asyncio.gather(*map(self._mirror.clock, places)))
        self._place = replace(
            self._place,
            token=self._stream.place,
            beat=self._place.beat + 1,
            seen=self._seen,
            kept=dict.fromkeys(self._gone) | {kept.hot.place: kept.number for kept in self._kept.values()},
            building=tuple(kept.hot.place for kept in self._kept.values() if kept.wanted or kept.fill),
            fence=self._fence,
        )
        self._since[self._place.beat] = (begun, dict(zip(places, clocks, strict=True)))
        await _patiently(lambda: self._checkpoints.save(CHECKPOINT, self._place.text(), self._fence))
        self._next_beat = begun + _BEAT_SECONDS

    async def _read(self) -> Batch:
        busy = bool(self._gone or self._sweeping) or any(
            kept.wanted or (kept.fill is not None and kept.fill.until is None) for kept in self._kept.values()
        )
        try:
            return await _patiently(lambda: self._stream.read(_READ, wait=not busy))
        except HistoryLost as problem:
            await self._lost(str(problem))
            return Batch((), None)

    async def _lost(self, problem: str) -> None:
        """Go on from now, and copy everything anew: what happened meanwhile is unknown."""
        log.error("the history of the mirrored collections is lost: all are copied anew", problem=problem)
        await self._stream.close()
        self._stream = ChangeStream(self._client, self._scope)
        await _patiently(self._stream.open)
        for kept in self._kept.values():
            self._spoilt(kept, Rebuild.HISTORY_LOST)
        self._next_beat = 0.0

    async def _take(self, batch: Batch) -> None:
        news: dict[str, dict[str, Copy]] = {}
        beat = 0
        for raw in batch.events:
            beat = max(beat, await self._one(raw, news))
        for kept in self._kept.values():
            copies = list(news.get(kept.hot.place, {}).values())
            for first in range(0, len(copies), _PUT):
                await self._put(kept, copies[first : first + _PUT])
        if beat in self._since:
            await self._current(beat)

    async def _one(self, raw: Raw, news: dict[str, dict[str, Copy]]) -> int:
        """Add what one event says to the news; return which beat it is, if any."""
        event = raw.document
        if event is None:
            await self._unreadable(raw, news)
            return 0
        at = event.get("clusterTime") or self._seen
        self._ordinal = self._ordinal + 1 if at == self._seen else 0
        self._seen = at
        kind, ns = event["operationType"], event.get("ns") or {}
        namespace = (str(ns.get("db", "")), str(ns.get("coll", "")))
        if kind not in _CHANGES:
            self._dropped(namespace, event.get("to") or {})
            return 0
        if namespace == self._beats:
            return self._own(event)
        kept = self._kept.get(namespace)
        if kept is None:
            return 0
        touched = touched_by(event)
        if touched is None or touched & {root_of(one) for one in kept.hot.fields}:
            copy = _copy_of(kept.hot, event, version_of(at, self._ordinal))
            news.setdefault(kept.hot.place, {})[copy.id] = copy
        return 0

    def _own(self, event: Mapping[str, Any]) -> int:
        """Return the beat of our own that came back; 0 for anything else, such as another's."""
        if event["documentKey"][ID] == REBUILD:
            for kept in self._kept.values():
                self._rebuild(kept, Rebuild.ASKED)
        # Not the document as it is by now: it may be that of a later beat.
        updated = (event.get("updateDescription") or {}).get("updatedFields")
        fields = updated if event["operationType"] == "update" else event.get("fullDocument")
        text = (fields or {}).get("position")
        if event["documentKey"][ID] != CHECKPOINT or not isinstance(text, str):
            return 0
        place = read_mirror_place(text)
        return place.beat if place.fence == self._fence else 0

    async def _unreadable(self, raw: Raw, news: dict[str, dict[str, Copy]]) -> None:
        """Forget what an event that cannot be read is about: whoever looks for it asks MongoDB."""
        db, _, name = raw.namespace.partition(".")
        kept = self._kept.get((db, name))
        log.error("a change cannot be read: it is not mirrored", namespace=raw.namespace, problem=raw.problem)
        if kept is not None:
            version = version_read_at(await _patiently(lambda: operation_time(self._client)))
            for letter in (OBJECT_ID, TEXT) if ObjectId.is_valid(raw.key) else (TEXT,):
                news.setdefault(kept.hot.place, {})[letter + raw.key] = Copy(letter + raw.key, version, None)

    def _dropped(self, namespace: tuple[str, str], to: Mapping[str, Any]) -> None:
        """Copy anew what was dropped, or replaced by another collection."""
        named = {namespace, (str(to.get("db", "")), str(to.get("coll", "")))} if to else {namespace}
        for own, kept in self._kept.items():
            # A database that is dropped has no collection; an invalidate names nothing.
            if named & {own, (own[0], ""), ("", "")}:
                self._spoilt(kept, Rebuild.DROPPED)

    async def _current(self, beat: int) -> None:
        """Promote what is whole, and let be read what is as the store was when this beat began."""
        begun, clocks = self._since[beat]
        self._since = {one: since for one, since in self._since.items() if one > beat}
        for kept in self._kept.values():
            fill = kept.fill
            if fill is not None and fill.until is not None and fill.until <= beat:
                await self._promote(kept, fill)
            if kept.number is not None:
                await self._serve(kept, clocks[kept.hot.place], begun)

    async def _promote(self, kept: _Kept, fill: _Fill) -> None:
        place, generation = kept.hot.place, fill.generation
        await _patiently(lambda: self._mirror.promote(place, generation, self._fence))
        log.info("a collection is mirrored", collection=kept.hot.collection, generation=generation)
        kept.number, kept.fill = fill.number, None
        self._sweeping.append(place)
        self._next_beat = 0.0

    async def _serve(self, kept: _Kept, since: int, begun: float) -> None:
        try:
            await _patiently(
                lambda: self._mirror.serve(kept.hot.place, SERVED_SECONDS, self._fence, since=since, number=kept.number)
            )
        except Forgotten as problem:
            self._forgotten(kept, problem)
        else:
            self._onlooker.served(kept.hot.collection, time.monotonic() - begun)

    async def _put(self, kept: _Kept, copies: Sequence[Copy], *, only_fill: bool = False) -> None:
        """Write copies into what is read, and into what is being filled."""
        place, fill = kept.hot.place, kept.fill
        try:
            if kept.number is not None and not only_fill:
                number = kept.number + 1
                await _patiently(lambda: self._mirror.put(place, copies, self._fence, number=number))
                kept.number = number
                self._onlooker.taken(kept.hot.collection, len(copies))
            if fill is not None:
                number = fill.number + 1
                await _patiently(lambda: self._mirror.put(place, copies, self._fence, fill.generation, number=number))
                fill.number = number
        except Forgotten as problem:
            self._forgotten(kept, problem)

    async def _work(self) -> None:
        """Do one step of what is to be built or swept."""
        if self._gone:
            await self._retire(self._gone[0])
            return
        for kept in self._kept.values():
            if kept.wanted:
                place = kept.hot.place
                kept.fill = _Fill(await _patiently(lambda place=place: self._mirror.begin(place, self._fence)))  # type: ignore[misc]
                kept.wanted = False
            if kept.fill is not None and kept.fill.until is None:
                await self._fill(kept, kept.fill)
                return
        if self._sweeping:
            name = self._sweeping[0]
            if not await _patiently(lambda: self._mirror.sweep(name, _PUT, self._fence)):
                self._sweeping.pop(0)

    async def _fill(self, kept: _Kept, fill: _Fill) -> None:
        found = await _patiently(lambda: read_range(self._client, kept.hot, fill.after, self._batch))
        copies = [one for one in found.copies if one.document is not None]
        for first in range(0, max(1, len(copies)), _PUT):
            await self._put(kept, copies[first : first + _PUT], only_fill=True)
        if found.through is None:
            fill.until = self._place.beat + 1
            self._next_beat = 0.0
        else:
            fill.after = found.through

    async def _retire(self, name: str) -> None:
        """Take a place of the mirror away that the settings do not want any more."""
        if name not in self._emptied:
            generation = await _patiently(lambda: self._mirror.begin(name, self._fence))
            await _patiently(lambda: self._mirror.promote(name, generation, self._fence))
            self._emptied.add(name)
        elif not await _patiently(lambda: self._mirror.sweep(name, _PUT, self._fence)):
            self._gone.remove(name)

    def _rebuild(self, kept: _Kept, why: Rebuild) -> None:
        """Copy it anew; what is read goes on being read until then."""
        log.info("a collection is copied anew", collection=kept.hot.collection, why=why.value)
        kept.fill, kept.wanted = None, True
        self._onlooker.rebuilding(kept.hot.collection, why)

    def _spoilt(self, kept: _Kept, why: Rebuild) -> None:
        """Let it not be read any more, and copy it anew."""
        kept.number = None
        self._rebuild(kept, why)

    def _forgotten(self, kept: _Kept, problem: Forgotten) -> None:
        log.error("the mirror has lost what it had: it is copied anew", problem=str(problem))
        self._spoilt(kept, Rebuild.FORGOTTEN)


def _copy_of(hot: Hot, event: Mapping[str, Any], version: int) -> Copy:
    document = None if event["operationType"] == "delete" else event.get("fullDocument")
    if document is None:
        return Copy(mirrored_id(event["documentKey"][ID]), version, None)
    return hot.copy_of(document, version, time.time())


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Call a store again and again until it answers; only the first failure in a row is logged."""
    pause, longest = _BACKOFF
    away = False
    while True:
        try:
            return await call()
        except Transient as problem:
            if not away:
                log.warning("the mirror waits for a store", problem=str(problem))
            away = True
            await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing
            pause = min(pause * 2, longest)
