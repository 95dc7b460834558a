"""Proofs in Redis: a string each, which ends with them."""

from __future__ import annotations

from companion.stores.redis.client import RedisClient


class RedisProofs:
    """The port `Proofs`."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def get(self, name: str) -> bytes | None:
        """Return what lies there; None where nothing does, or not any more."""
        found = await self._client.call(lambda redis: redis.get(self._client.keys.proof(name)))
        return found if isinstance(found, bytes) else None

    async def put(self, name: str, proof: bytes, seconds: float) -> None:
        """Leave it there for so long, in place of what lay there."""
        milliseconds = max(1, round(seconds * 1000))
        await self._client.call(lambda redis: redis.set(self._client.keys.proof(name), proof, px=milliseconds))
