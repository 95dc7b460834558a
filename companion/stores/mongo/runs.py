"""Records of what ran once and matters later: the collection `mqtt_runs`.

A document has `_id`, `what`, `reason`, `since` and `until` (dates: the time that it is about), `state` (running, done), `changes`
(how many were found so far), `started_at` and `ended_at`.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from companion.stores.mongo.client import MongoClient

COLLECTION: Final = "mqtt_runs"


class Runs:
    """The records."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._runs = client.database[COLLECTION]

    async def begun(self, what: str, since: int, until: int, reason: str) -> None:
        """Note that it begins, about the time from `since` to `until` (Unix seconds); begun anew it keeps its first beginning."""
        fields = {
            "$set": {"state": "running"},
            "$setOnInsert": {
                "what": what,
                "reason": reason,
                "since": _date(since),
                "until": _date(until),
                "started_at": dt.datetime.now(dt.UTC),
                "changes": 0,
            },
        }
        await self._client.call(lambda: self._runs.update_one({"_id": _id(what, since, until)}, fields, upsert=True))

    async def found(self, what: str, since: int, until: int, changes: int) -> None:
        """Note that it found so many more."""
        fields = {"$inc": {"changes": changes}}
        await self._client.call(lambda: self._runs.update_one({"_id": _id(what, since, until)}, fields))

    async def ended(self, what: str, since: int, until: int) -> None:
        """Note that it is done."""
        fields = {"$set": {"state": "done", "ended_at": dt.datetime.now(dt.UTC)}}
        await self._client.call(lambda: self._runs.update_one({"_id": _id(what, since, until)}, fields))


def _id(what: str, since: int, until: int) -> str:
    return f"{what}:{since}:{until}"


def _date(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
