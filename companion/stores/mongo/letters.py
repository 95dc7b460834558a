"""Dead letters of the change stream: the collection `mqtt_dead_letters`.

A document has `_id` (the event id), `source`, `namespace` (db.collection), `key` (the `_id` of the document that changed, as text),
`reason` and `at` (when it was given up, a date). What the change said stands in the document itself.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from companion.stores.mongo.client import MongoClient

COLLECTION: Final = "mqtt_dead_letters"


class DeadLetters:
    """Where they are kept until a person decides about them."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._letters = client.database[COLLECTION]

    async def put(self, event_id: str, source: str, namespace: str, key: str, reason: str) -> None:
        """Keep one durably; the same event again takes the place of the first."""
        letter = {
            "source": source,
            "namespace": namespace,
            "key": key,
            "reason": reason,
            "at": dt.datetime.now(dt.UTC),
        }
        await self._client.call(lambda: self._letters.replace_one({"_id": event_id}, letter, upsert=True))
