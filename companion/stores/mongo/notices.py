"""Word of accounts and rules that somebody changed in MongoDB itself, over a change stream."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Final

import structlog

from companion.core.errors import CompanionError
from companion.core.model import Notice
from companion.core.model import Scope as About
from companion.stores.mongo.client import MongoClient
from companion.stores.mongo.meaning import Meanings
from companion.stores.mongo.stream import ChangeStream, HistoryLost

log = structlog.get_logger("companion.stores.mongo")

_READ: Final = 1000
_BACKOFF: Final = (0.1, 2.0)
_EVERYTHING: Final = Notice(About.EVERYTHING)


class MongoNotices:
    """The following half of the port `Notices`: MongoDB announces by itself."""

    def __init__(self, client: MongoClient, meanings: Meanings) -> None:
        self._client = client
        self._meanings = meanings
        self._scope = meanings.scope

    async def follow(self) -> AsyncIterator[Sequence[Notice]]:
        """Yield what was changed; EVERYTHING when the history was lost."""
        stream = ChangeStream(self._client, self._scope)
        try:
            await self._patiently(stream, opening=True)
            yield ()
            while True:
                told = await self._patiently(stream)
                if told is None:
                    await stream.close()
                    stream = ChangeStream(self._client, self._scope)
                    await self._patiently(stream, opening=True)
                    yield [_EVERYTHING]
                elif told:
                    yield told
        finally:
            await stream.close()

    async def _patiently(self, stream: ChangeStream, *, opening: bool = False) -> Sequence[Notice] | None:
        """Open, or read what follows, as soon as MongoDB can be asked; None when the place is lost."""
        pause, longest = _BACKOFF
        away = False
        while True:
            try:
                if opening:
                    await stream.open()
                    return ()
                batch = await stream.read(_READ)
            except HistoryLost as problem:
                log.warning(
                    "changes of accounts may have been missed: everything is taken for changed", problem=str(problem)
                )
                return None
            except CompanionError as problem:
                if not away:
                    log.warning("changes in MongoDB are not heard of for now", problem=str(problem))
                away = True
                await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing
                pause = min(pause * 2, longest)
            else:
                return list(dict.fromkeys(notice for raw in batch.events for notice in self._meanings.of(raw)))
