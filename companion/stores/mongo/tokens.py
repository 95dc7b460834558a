"""Long-lived tokens in MongoDB: the collection `mqtt_tokens`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymongo.errors import DuplicateKeyError

from companion.core.errors import Invalid
from companion.core.long_tokens import LongToken
from companion.stores.mongo.client import MongoClient

COLLECTION: Final = "mqtt_tokens"
_BATCH_SECONDS: Final = 10.0


class MongoTokens:
    """The port `LongTokens`."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._tokens = client.database[COLLECTION]

    async def add(self, token: LongToken) -> None:
        """Store it; `Invalid` for an id that exists already."""
        document = {
            "_id": token.id,
            "digest": token.digest,
            "username": token.username,
            "scopes": list(token.scopes),
            "name": token.name,
            "expires_at": token.expires_at,
            "addresses": list(token.addresses),
            "created_at": token.created_at,
        }
        try:
            await self._client.call(lambda: self._tokens.insert_one(document))
        except DuplicateKeyError:
            raise Invalid("id", token.id, "an id that does not exist yet") from None

    async def get(self, token_id: str) -> LongToken | None:
        """Return the token, or None."""
        found = await self._client.call(lambda: self._tokens.find_one({"_id": token_id}))
        return None if found is None else _token(found)

    async def remove(self, token_id: str) -> bool:
        """Remove it; False when there is no such token."""
        result = await self._client.call(lambda: self._tokens.delete_one({"_id": token_id}))
        return bool(result.deleted_count)

    async def list(self, username: str = "") -> Sequence[LongToken]:
        """Return all of them, or those of this user name, in the order of their ids."""
        which = {"username": username} if username else {}
        found = await self._client.call(lambda: self._tokens.find(which).sort("_id", 1).to_list(), _BATCH_SECONDS)
        return [_token(one) for one in found]


def _token(document: Mapping[str, Any]) -> LongToken:
    return LongToken(
        document["_id"],
        document["digest"],
        document["username"],
        tuple(document["scopes"]),
        document["name"],
        document["expires_at"],
        tuple(document["addresses"]),
        document["created_at"],
    )
