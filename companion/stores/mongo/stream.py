"""A change stream, read by commands of our own.

Each event is taken as bytes and decoded alone, so that one that cannot be decoded does not hold up those behind it, and the
place is known also where nothing happens.

The driver's own helper decodes before it looks at the resume token, and fails for ever at an event that is no BSON.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from bson.raw_bson import RawBSONDocument
from pymongo import errors
from pymongo.asynchronous.client_session import AsyncClientSession

from companion.core.errors import CompanionError, Permanent, Transient
from companion.stores.mongo.client import NAME, MongoClient
from companion.stores.mongo.raw import RAW, UNSOUND, decode, decode_as_far_as_possible

log = structlog.get_logger("companion.stores.mongo")

Token = Mapping[str, Any]

_LOST: Final = {286: "ChangeStreamHistoryLost", 280: "ChangeStreamFatalError", 260: "InvalidResumeToken"}
_UNKNOWN_STAGE: Final = 40324
_TOO_LARGE: Final = 10334
_OPEN_SECONDS: Final = 30.0
"""The server may have to look through much of its log for the place."""

_PATIENCE_SECONDS: Final = 1.0
"""How long a question waits for an event, where a command may take twice as long; else for half of that."""

_KEY_ONLY: Final = {"operationType": 1, "ns": 1, "documentKey": 1, "clusterTime": 1, "wallTime": 1}


class HistoryLost(Permanent):
    """The place is not in the server's log any more (286), or its token is of no use (280, 260): what happened since is unknown."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What is watched: whole databases, and single collections of others as (database, collection)."""

    databases: frozenset[str] = frozenset()
    collections: frozenset[tuple[str, str]] = frozenset()
    without: frozenset[tuple[str, str]] = frozenset()
    """Collections of those databases that are not."""

    @property
    def only_database(self) -> str | None:
        """The database, where it is only one: then its own stream will do."""
        names = self.databases | {db for db, _ in self.collections}
        return next(iter(names)) if len(names) == 1 else None

    def match(self) -> Mapping[str, Any]:
        """Return the condition on events, for the server."""
        ways: list[Mapping[str, Any]] = [{"operationType": "invalidate"}]
        excepted = {db for db, _ in self.without} & self.databases
        if plain := sorted(self.databases - excepted):
            ways.append({"ns.db": {"$in": plain}})
        ways += [{"ns.db": db, "ns.coll": {"$nin": _of(db, self.without)}} for db in sorted(excepted)]
        ways += [
            {"ns.db": db, "ns.coll": {"$in": _of(db, self.collections)}}
            for db in sorted({db for db, _ in self.collections})
        ]
        # What is renamed to one of these names (an aggregation's `$out`) bears the other name.
        ways += [{f"to.{name[3:]}": one for name, one in way.items()} for way in ways[1:]]
        return {"$or": ways}


def _of(db: str, collections: frozenset[tuple[str, str]]) -> list[str]:
    return sorted(collection for its_db, collection in collections if its_db == db)


@dataclass(frozen=True, slots=True)
class Raw:
    """One event, with the token that leads behind it.

    `document` is None where it could not be read, for the reason in `problem`; `namespace` and `key` say then what it was about, as
    far as that can be read.
    """

    token: Token
    document: Mapping[str, Any] | None
    namespace: str = ""
    key: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one question brought: events, and the place behind them all (None inside a split event)."""

    events: Sequence[Raw]
    token: Token | None


@dataclass(slots=True)
class _Open:
    session: AsyncClientSession
    cursor: int
    collection: str
    fragments: dict[str, Any] = field(default_factory=dict)


class ChangeStream:
    """A stream over `scope` that opens itself behind `token` (None: from now on) and again after every failure.

    `place` is behind what was returned last. It is used by one task at a time.
    """

    def __init__(self, client: MongoClient, scope: Scope, token: Token | None = None) -> None:
        self.place = token
        self._client = client
        self._scope = scope
        self._open: _Open | None = None
        self._splits = True
        self._singles = 0
        self._key_only = False
        self._most = 1 << 30
        self._patience_ms = max(1, int(min(_PATIENCE_SECONDS, client.timeout / 2) * 1000))

    async def open(self) -> Token:
        """Open it if it is not, and return the place.

        Raises `HistoryLost` when the server knows the place no more, `Transient` while nobody answers.
        """
        await self._opened()
        return self.place or {}

    async def _opened(self) -> _Open:
        if self._open is None:
            try:
                self._open = await self._begin()
            except _Unknown:
                log.info("this MongoDB does not split large events")
                self._splits = False
                self._open = await self._begin()
        return self._open

    async def read(self, limit: int, *, wait: bool = True) -> Batch:
        """Return up to `limit` events, or none after about a second (half the command timeout, if that is less).

        Without `wait` none at once.
        """
        stream = await self._opened()
        command = {
            "getMore": stream.cursor,
            "collection": stream.collection,
            "batchSize": 1 if self._singles else min(limit, self._most),
            "maxTimeMS": self._patience_ms if wait else 1,
        }
        try:
            cursor = await self._command(stream.session, command)
        except _TooLarge16:
            await self.close()
            # Of a batch nobody knows which: they come singly, and then the next one is the culprit and comes without its documents.
            self._key_only = bool(self._singles)
            self._singles = self._singles or limit
            return Batch((), None)
        except CompanionError:
            # A batch that takes longer than a command may is asked for in smaller parts.
            self._most = max(1, min(limit, self._most) // 4)
            await self.close()
            raise
        self._most = min(self._most * 2, 1 << 30)
        batch = self._batch(stream, cursor)
        if batch.events and self._singles:
            self._singles -= 1
            if self._key_only:
                self._key_only, self._singles = False, 0
                await self.close()
        if not cursor["id"]:
            log.info("the change stream has ended (invalidate): a new one begins behind its end")
            await self.close()
        return batch

    async def close(self) -> None:
        """Let go of the cursor; it can be opened again."""
        if self._open is None:
            return
        stream, self._open = self._open, None
        with contextlib.suppress(CompanionError):
            kill = {"killCursors": stream.collection, "cursors": [stream.cursor]}
            await self._client.call(lambda: self._database.command(kill, session=stream.session))
        await stream.session.end_session()

    @property
    def _database(self) -> Any:  # noqa: ANN401 - the driver's type has a parameter that says nothing here
        return self._client.driver[self._scope.only_database or "admin"]

    async def _begin(self) -> _Open:
        options: dict[str, Any] = {"fullDocument": "updateLookup", "fullDocumentBeforeChange": "whenAvailable"}
        if self._scope.only_database is None:
            options["allChangesForCluster"] = True
        if self.place is not None:
            # As resumeAfter, and also behind an invalidate.
            options["startAfter"] = self.place
        stages: list[Mapping[str, Any]] = [{"$changeStream": options}, {"$match": self._scope.match()}]
        if self._key_only:
            stages.append({"$project": _KEY_ONLY})
        elif self._splits:
            stages.append({"$changeStreamSplitLargeEvent": {}})
        session = self._client.driver.start_session()
        try:
            command = {"aggregate": 1, "pipeline": stages, "cursor": {"batchSize": 0}}
            cursor = await self._command(session, command, _OPEN_SECONDS)
        except BaseException:
            await session.end_session()
            raise
        if self.place is None:
            self.place = _plain(cursor["postBatchResumeToken"])
        return _Open(session, int(cursor["id"]), str(cursor["ns"]).partition(".")[2])

    async def _command(
        self, session: AsyncClientSession, command: Mapping[str, Any], seconds: float | None = None
    ) -> RawBSONDocument:
        async def run() -> RawBSONDocument:
            try:
                answer = await self._database.command(command, session=session, codec_options=RAW)
            except errors.OperationFailure as problem:
                if problem.code in _LOST:
                    raise _Lost(f"{_LOST[problem.code]} ({problem.code})") from None
                if problem.code == _UNKNOWN_STAGE and self._splits:
                    raise _Unknown from None
                if problem.code == _TOO_LARGE:
                    raise _TooLarge16 from None
                raise
            return answer["cursor"]  # type: ignore[no-any-return]

        try:
            return await self._client.call(run, seconds)
        except _Lost as problem:
            await self.close()
            raise HistoryLost(f"{NAME}: the history of changes is lost: {problem}") from None
        except Permanent as problem:
            # A cursor that is gone, a primary that is none any more: a new stream begins at the same place.
            raise Transient(str(problem)) from None

    def _batch(self, stream: _Open, cursor: RawBSONDocument) -> Batch:
        events = []
        for one in cursor["nextBatch"]:
            event = self._event(stream, one)
            if event is not None:
                events.append(event)
                self.place = event.token
        if stream.fragments:
            return Batch(events, None)
        token = cursor.get("postBatchResumeToken")
        if token is not None:
            self.place = _plain(token)
        return Batch(events, self.place)

    def _event(self, stream: _Open, raw: RawBSONDocument) -> Raw | None:
        """Decode one event; None for a fragment that is not the last of its event."""
        token = _plain(raw["_id"])
        try:
            document = decode(raw)
        except UNSOUND as problem:
            stream.fragments.clear()
            return _unread(token, raw, f"it cannot be decoded ({type(problem).__name__})")
        if self._key_only:
            return _unread(token, raw, "it is larger than a change stream can tell (16 MiB)")
        part = document.pop("splitEvent", None)
        if part is None:
            return Raw(token, document)
        stream.fragments |= document
        if part["fragment"] < part["of"]:
            return None
        whole, stream.fragments = stream.fragments, {}
        return Raw(token, whole)


class _Lost(Exception):
    """One of the errors after which a token is worth nothing."""


class _Unknown(Exception):
    """The server does not know a stage."""


class _TooLarge16(Exception):
    """An event is larger than a document may be."""


def _plain(token: RawBSONDocument) -> Token:
    return decode(token)


def _unread(token: Token, raw: RawBSONDocument, problem: str) -> Raw:
    ns, key = (decode_as_far_as_possible(raw[name]) if name in raw else {} for name in ("ns", "documentKey"))
    return Raw(token, None, f"{ns.get('db', '')}.{ns.get('coll', '')}", str(key.get("_id", "")), problem)
