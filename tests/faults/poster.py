"""Whoever posts changes and wants them delivered: it repeats a batch until it has seen the 202."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import aiohttp

from tests.faults.service import OPS_KEY
from tests.faults.workload import Planned

_PATIENCE: Final = aiohttp.ClientTimeout(total=1.5)
_PAUSE: Final = 0.05
_HEADERS: Final = {"Authorization": f"Bearer {OPS_KEY}"}


class Way(Protocol):
    """A way for changes to take part. What is in `taken` was acknowledged to whoever brought it."""

    batch: int
    """How many changes are brought at once."""

    taken: list[Planned]
    repeated: int
    """How often something had to be brought again."""

    async def post(self, batch: Sequence[Planned]) -> None:
        """Bring changes, again and again until they are taken."""
        ...


class Poster:
    """Posts changes to one address. A change is in `taken` once a 202 told so, and not before."""

    batch = 50

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = f"{url}/changes"
        self._http = http
        self.taken: list[Planned] = []
        self.repeated = 0

    async def post(self, batch: Sequence[Planned]) -> None:
        """Post a batch, with the same event ids again and again until it is taken."""
        while not await self._take(batch):
            self.repeated += 1
            await asyncio.sleep(_PAUSE)
        self.taken.extend(batch)

    async def _take(self, batch: Sequence[Planned]) -> bool:
        """Tell whether a 202 came. No answer and 503 mean "again"; everything else is a fault of the test."""
        body = [change.body for change in batch]
        try:
            async with self._http.post(self._url, json=body, headers=_HEADERS, timeout=_PATIENCE) as response:
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError):
            return False
        if response.status == 503:
            return False
        assert response.status == 202, answer
        assert answer["event_ids"] == [change.event_id for change in batch]
        assert answer["accepted"] + answer["duplicates"] == len(batch)
        return True
