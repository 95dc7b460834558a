"""Platform sessions in MongoDB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pymongo.errors import DuplicateKeyError

from companion.core.model import Session
from companion.core.ports.identities import SessionField
from companion.stores.mongo.client import MongoClient

COLLECTION: Final = "mqtt_sessions"
_BATCH_SECONDS: Final = 10.0


class MongoSessions:
    """The port `Sessions`."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._sessions = client.database[COLLECTION]

    async def put(self, session: Session) -> None:
        """Store it, in place of an earlier one of the same user name and client id."""
        key = _key(session.username, session.client_id)
        document = {
            "username": session.username,
            "client_id": session.client_id,
            "principal": session.principal,
            "session": session.session,
            "expires_at": session.expires_at,
            "subject": session.subject,
            "scope": session.scope,
            "groups": list(session.groups),
            "tenant": session.tenant,
            "jti": session.jti,
            "digest": session.digest,
            "acl": session.acl,
            "token": session.token,
        }

        async def replace() -> Any:  # noqa: ANN401 - what the driver tells is not looked at
            return await self._sessions.replace_one({"_id": key}, document, upsert=True)

        try:
            await self._client.call(replace)
        except DuplicateKeyError:
            # Another process stored the same one in between; now there is something to replace.
            await self._client.call(replace)

    async def get(self, username: str, client_id: str) -> Session | None:
        """Return the session, also an expired one; None when there is none."""
        found = await self._client.call(lambda: self._sessions.find_one({"_id": _key(username, client_id)}, {"_id": 0}))
        return None if found is None else Session(**found | {"groups": tuple(found.get("groups", ()))})

    async def remove(self, username: str, client_id: str) -> None:
        """Forget it; no error when there is none."""
        await self._client.call(lambda: self._sessions.delete_one({"_id": _key(username, client_id)}))

    async def client_ids(self, by: SessionField, value: str, *, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Return up to `limit` client ids of the sessions with this value, in order, those behind `after`."""
        if not value:
            return []
        query = {by: value, "client_id": {"$gt": after}}
        found = await self._client.call(
            lambda: self._sessions.find(query, {"client_id": 1}).sort("client_id", 1).limit(limit).to_list(),
            _BATCH_SECONDS,
        )
        return list(dict.fromkeys(one["client_id"] for one in found))

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` sessions that expired before `before` (Unix seconds); return how many."""

        async def remove() -> int:
            due = {"expires_at": {"$lt": before}}
            if dry:
                return int(await self._sessions.count_documents(due, limit=limit))
            old = await self._sessions.find(due, {"_id": 1}).sort("expires_at", 1).limit(limit).to_list()
            # A session that was renewed meanwhile stays.
            result = await self._sessions.delete_many({"_id": {"$in": [one["_id"] for one in old]}, **due})
            return int(result.deleted_count)

        return await self._client.call(remove, _BATCH_SECONDS)


def _key(username: str, client_id: str) -> str:
    """Return one key of two names; the length keeps `a:` + `b` and `a` + `:b` apart."""
    return f"{len(username)}:{username}:{client_id}"
