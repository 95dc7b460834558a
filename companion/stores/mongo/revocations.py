"""Revocations in MongoDB: the collection `mqtt_revocations`, a document each, with the fields of `Revocation` and its `key`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from companion.core.errors import Fenced
from companion.core.ports import Waiting
from companion.core.revocations import Cause, Done, Revocation, Standing, Step, Target
from companion.stores.mongo.client import MongoClient

COLLECTION: Final = "mqtt_revocations"
FELT: Final = frozenset({"lifted_at", "until", "key", "cause"})
"""The fields that say whom the hooks refuse; the others only tell how far the work is."""

_PLAIN: Final = (
    "name",
    "at",
    "reason",
    "asked_by",
    "until",
    "ban_until",
    "lifted_at",
    "waiting",
    "due_at",
    "attempts",
    "error",
    "fence",
)
_SHOWN: Final = {"key": 1, "until": 1}
_SECONDS: Final = 10.0


class MongoRevocations:
    """The port `Revocations`."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._revocations = client.database[COLLECTION]

    async def add(self, revocation: Revocation) -> bool:
        """Store a new one durably; False when there is one of this id."""
        try:
            await self._client.call(lambda: self._revocations.insert_one(_document(revocation)))
        except DuplicateKeyError:
            return False
        return True

    async def get(self, revocation_id: str) -> Revocation | None:
        """Return it; None when there is none."""
        found = await self._client.call(lambda: self._revocations.find_one({"_id": revocation_id}))
        return None if found is None else _revocation(found)

    async def list(self, *, waiting: bool | None = None, limit: int = 100) -> Sequence[Revocation]:
        """Return up to `limit`, newest first."""
        query = {} if waiting is None else {"waiting": waiting}
        found = await self._client.call(
            lambda: self._revocations.find(query).sort([("at", -1), ("_id", -1)]).limit(limit).to_list(), _SECONDS
        )
        return [_revocation(one) for one in found]

    async def standing(self, now: int, *, after: str = "", limit: int = 1000) -> Sequence[Standing]:
        """Return up to `limit` because of which the hooks refuse (Unix seconds), those behind `after`."""
        query = {"_id": {"$gt": after}, **_stands(now)}
        found = await self._client.call(
            lambda: self._revocations.find(query, _SHOWN).sort("_id", 1).limit(limit).to_list(), _SECONDS
        )
        return [_standing(one) for one in found]

    async def of(self, keys: Sequence[str], now: int) -> Sequence[Standing]:
        """Return those because of which somebody with one of these keys is refused."""
        query = {"key": {"$in": list(keys)}, **_stands(now)}
        found = await self._client.call(lambda: self._revocations.find(query, _SHOWN).to_list())
        return [_standing(one) for one in found]

    async def due(self, now: int, limit: int) -> Sequence[Revocation]:
        """Return up to `limit` that are due (Unix milliseconds)."""
        query = {"waiting": True, "due_at": {"$lte": now}}
        found = await self._client.call(
            lambda: self._revocations.find(query).sort([("due_at", 1), ("at", 1)]).limit(limit).to_list()
        )
        return [_revocation(one) for one in found]

    async def claim(self, revocation_id: str, fence: int) -> Revocation | None:
        """Return it as it stands, and refuse lower fences from now on."""
        query = {"_id": revocation_id, "waiting": True, "fence": {"$lte": fence}}
        claimed = await self._update(query, {"fence": fence})
        if claimed is not None:
            return _revocation(claimed)
        found = await self.get(revocation_id)
        if found is None or not found.waiting:
            return None
        raise _fenced(revocation_id, fence)

    async def note(self, revocation: Revocation) -> Revocation:
        """Store how far it is under its fence, and return it as it then stands."""
        query = {"_id": revocation.id, "fence": revocation.fence}
        steps = {"steps": [_step(one) for one in revocation.steps]}
        work = {name: getattr(revocation, name) for name in ("waiting", "due_at", "attempts", "error")}
        noted = await self._update({**query, "lifted_at": revocation.lifted_at}, {**steps, **work})
        if noted is None:
            noted = await self._update(query, steps)
        if noted is None:
            raise _fenced(revocation.id, revocation.fence)
        return _revocation(noted)

    async def lift(self, revocation_id: str, now: int) -> Revocation | None:
        """End it (Unix milliseconds) and return it, also one that was lifted before."""
        query = {"_id": revocation_id, "cause": Cause.REVOKED.value, "lifted_at": None}
        fields = {"lifted_at": now, "waiting": True, "due_at": now, "attempts": 0, "error": ""}
        lifted = await self._update(query, fields)
        if lifted is not None:
            return _revocation(lifted)
        found = await self.get(revocation_id)
        return found if found is not None and found.lifted_at is not None else None

    async def waiting(self) -> Waiting:
        """Return what is left to do."""

        async def look() -> Waiting:
            query = {"waiting": True}
            count = await self._revocations.count_documents(query)
            oldest = await self._revocations.find(query, {"at": 1, "lifted_at": 1}).sort("at", 1).limit(1).to_list()
            since = [one["lifted_at"] or one["at"] for one in oldest]
            return Waiting(count, min(since, default=None))

        return await self._client.call(look)

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` older than `before` (Unix milliseconds) that neither stand nor wait; return how many."""
        over = [
            {"cause": {"$ne": Cause.REVOKED.value}},
            {"lifted_at": {"$ne": None}},
            {"until": {"$ne": None, "$lte": before // 1000}},
        ]
        due = {"at": {"$lt": before}, "waiting": False, "$or": over}

        async def remove() -> int:
            if dry:
                return int(await self._revocations.count_documents(due, limit=limit))
            old = await self._revocations.find(due, {"_id": 1}).sort("at", 1).limit(limit).to_list()
            result = await self._revocations.delete_many({"_id": {"$in": [one["_id"] for one in old]}, **due})
            return int(result.deleted_count)

        return await self._client.call(remove, _SECONDS)

    async def _update(self, query: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any] | None:
        return await self._client.call(
            lambda: self._revocations.find_one_and_update(query, {"$set": fields}, return_document=ReturnDocument.AFTER)
        )


def _stands(now: int) -> Mapping[str, Any]:
    return {
        "cause": Cause.REVOKED.value,
        "lifted_at": None,
        "$or": [{"until": None}, {"until": {"$gt": now}}],
    }


def _fenced(revocation_id: str, fence: int) -> Fenced:
    return Fenced(f"revocation {revocation_id}: the fence {fence} is not the newest")


def _standing(found: Mapping[str, Any]) -> Standing:
    return Standing(found["_id"], found["key"], found["until"])


def _step(one: Done) -> dict[str, Any]:
    return {"step": one.step.value, "at": one.at, "took": one.took, "detail": one.detail}


def _document(one: Revocation) -> dict[str, Any]:
    return {
        "_id": one.id,
        "key": one.key,
        "target": one.target.value,
        "cause": one.cause.value,
        "steps": [_step(step) for step in one.steps],
        **{name: getattr(one, name) for name in _PLAIN},
    }


def _revocation(found: Mapping[str, Any]) -> Revocation:
    return Revocation(
        id=found["_id"],
        target=Target(found["target"]),
        cause=Cause(found["cause"]),
        steps=tuple(Done(Step(one["step"]), one["at"], one["took"], one["detail"]) for one in found["steps"]),
        **{name: found[name] for name in _PLAIN},
    )
