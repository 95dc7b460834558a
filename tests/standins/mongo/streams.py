"""Change streams over the log: `aggregate` with `$changeStream`, `getMore`, `killCursors`, and faults on demand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from bson import Int64
from oplog import Entry, Oplog, number_of, shown, token

Document = dict[str, Any]

FAULT: Final = "companionFault"
"""The command that orders a fault. `{companionFault: "error", code: 286, name: "ChangeStreamHistoryLost"}` fails the next getMore
of every open stream, `{companionFault: "forget"}` empties the log, `{companionFault: "split", on: true}` splits events in two,
`{companionFault: "old", on: true}` forgets how to, as MongoDB 5, `{companionFault: "deaf", on: true}` lets open streams answer with
nothing until it is off; then they tell what they have not."""

_GATHER_SECONDS: Final = 0.002
"""What is written within it is told together."""

_SCAN: Final = 500


def failed(code: int, name: str, message: str, *labels: str) -> Document:
    """Return the answer of a command that failed."""
    return {"ok": 0.0, "code": code, "codeName": name, "errmsg": message, "errorLabels": list(labels)}


@dataclass(slots=True)
class _Cursor:
    namespace: str
    db: str | None
    collection: str | None
    match: Document
    options: Document
    place: int
    splits: bool
    shown: frozenset[str] | None = None
    fault: Document | None = None
    fragments: list[Document] = field(default_factory=list)
    ended: bool = False


class Streams:
    """The open change streams."""

    def __init__(self, log: Oplog) -> None:
        self._log = log
        self._ids = itertools.count(10**15)
        self._cursors: dict[int, _Cursor] = {}
        self._split = self._old = self._deaf = False
        self._news = asyncio.Event()
        log.tell = self._wake

    async def answer(self, command: Document) -> Document | None:
        """Answer what is about change streams; None for everything else."""
        name = next(iter(command))
        if name == FAULT:
            return self._order(command)
        if name == "aggregate" and command["pipeline"] and "$changeStream" in command["pipeline"][0]:
            return self._open(command)
        if name == "getMore" and command["getMore"] in self._cursors:
            return await self._more(command)
        if name == "killCursors" and (mine := [one for one in command["cursors"] if one in self._cursors]):
            for one in mine:
                del self._cursors[one]
            return {"cursorsKilled": mine, "cursorsNotFound": [], "cursorsAlive": [], "cursorsUnknown": [], "ok": 1.0}
        return None

    def _wake(self) -> None:
        """Let everybody who waits look."""
        self._news.set()
        self._news = asyncio.Event()

    def _order(self, command: Document) -> Document:
        kind = command[FAULT]
        if kind == "forget":
            self._log.forget()
        elif kind == "split":
            self._split = command["on"]
        elif kind == "old":
            self._old = command["on"]
        elif kind == "deaf":
            self._deaf = command["on"]
        else:
            for cursor in self._cursors.values():
                cursor.fault = failed(command["code"], command["name"], "ordered by a test", *command.get("labels", ()))
        self._wake()
        return {"ok": 1.0, "streams": len(self._cursors)}

    def _open(self, command: Document) -> Document:
        options, *stages = command["pipeline"]
        options = options["$changeStream"]
        match: Document = {}
        splits, only = False, None
        for stage in stages:
            if "$match" in stage and not match:
                match = stage["$match"]
            elif "$changeStreamSplitLargeEvent" in stage and stage is stages[-1] and not self._old:
                splits = True
            elif "$project" in stage and stage is stages[-1]:
                only = frozenset({"_id", *stage["$project"]})
            else:
                return failed(40324, "Location40324", f"the stand-in does not know {stage}")
        everything = bool(options.get("allChangesForCluster"))
        db = None if everything else command["$db"]
        collection = None if command["aggregate"] == 1 else command["aggregate"]
        try:
            place = self._place(options)
        except ValueError:
            return failed(260, "InvalidResumeToken", "this is no resume token")
        if place < self._log.first - 1:
            return failed(286, "ChangeStreamHistoryLost", "the resume point may no longer be in the oplog")
        number = next(self._ids)
        namespace = f"{command['$db']}.{collection or '$cmd.aggregate'}"
        self._cursors[number] = _Cursor(namespace, db, collection, match, options, place, splits, only)
        return {
            "cursor": {
                "id": Int64(number),
                "ns": namespace,
                "firstBatch": [],
                "postBatchResumeToken": self._token(place),
            },
            "ok": 1.0,
        }

    def _place(self, options: Document) -> int:
        for name in ("resumeAfter", "startAfter"):
            if name in options:
                return int(number_of(options[name]))
        at = options.get("startAtOperationTime")
        return int(self._log.last[1] if at is None else self._log.before(at.time, at.inc))

    def _token(self, place: int) -> Document:
        # A place without an event bears the time of the newest one, as a high-water mark does.
        return dict(token(self._log.last[0], place))

    async def _more(self, command: Document) -> Document:
        number = command["getMore"]
        cursor = self._cursors[number]
        until = time.monotonic() + command.get("maxTimeMS", 1000) / 1000
        limit = command.get("batchSize", 101)
        events: list[Document] = []
        while not events:
            if cursor.fault is not None:
                del self._cursors[number]
                return cursor.fault
            if not self._deaf:
                self._collect(cursor, events, limit)
            if events or cursor.ended or time.monotonic() >= until:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - time.monotonic()):
                    await self._news.wait()
                    await asyncio.sleep(_GATHER_SECONDS)
        if cursor.ended:
            self._cursors.pop(number, None)
        mark = events[-1]["_id"] if events and cursor.fragments else self._token(cursor.place)
        return {
            "cursor": {
                "id": Int64(0 if cursor.ended else number),
                "ns": cursor.namespace,
                "nextBatch": events,
                "postBatchResumeToken": mark,
            },
            "ok": 1.0,
        }

    def _collect(self, cursor: _Cursor, events: list[Document], limit: int) -> None:
        while cursor.fragments and len(events) < limit:
            events.append(cursor.fragments.pop(0))
        if cursor.fragments:
            return
        for entry in self._log.behind(cursor.place, _SCAN):
            if len(events) >= limit:
                return
            cursor.place = entry.number
            event = self._event(cursor, entry)
            if event is None:
                continue
            if cursor.splits and self._split:
                whole = dict(event)
                after = {"fullDocument": whole.pop("fullDocument", None)}
                first = {**whole, "splitEvent": {"fragment": 1, "of": 2}}
                second = {"_id": entry.token, "splitEvent": {"fragment": 2, "of": 2}, **after}
                events.append(first)
                cursor.fragments.append(second)
                return
            events.append(event)
            if cursor.ended:
                return

    def _event(self, cursor: _Cursor, entry: Entry) -> Document | None:
        event = shown(entry)
        ns, kind = event["ns"], event["operationType"]
        if cursor.db is not None and ns["db"] != cursor.db:
            return None
        if kind == "dropDatabase" and cursor.db is not None:
            cursor.ended = True
            return {"_id": entry.token, "operationType": "invalidate", "clusterTime": event["clusterTime"]}
        if cursor.collection is not None and ns.get("coll") != cursor.collection:
            return None
        if not _matches(event, cursor.match):
            return None
        before = event.pop("fullDocumentBeforeChange", None)
        if before is not None and cursor.options.get("fullDocumentBeforeChange") == "whenAvailable":
            event["fullDocumentBeforeChange"] = before
        if kind == "update":
            event.pop("fullDocument", None)
            if cursor.options.get("fullDocument") == "updateLookup":
                event["fullDocument"] = self._log.current(ns["db"], ns["coll"], event["documentKey"])
        return event if cursor.shown is None else {name: event[name] for name in cursor.shown & event.keys()}


def _matches(event: Document, query: Document) -> bool:
    for name, wanted in query.items():
        if name == "$or":
            if not any(_matches(event, one) for one in wanted):
                return False
            continue
        value: Any = event
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        tests = wanted if isinstance(wanted, dict) else {"$eq": wanted}
        if not all(_TESTS[operator](value, operand) for operator, operand in tests.items()):
            return False
    return True


_TESTS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "$eq": lambda value, wanted: bool(value == wanted),
    "$in": lambda value, wanted: value in wanted,
    "$nin": lambda value, wanted: value not in wanted,
}
