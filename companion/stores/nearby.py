"""Accounts read from the mirror before MongoDB is asked.

What is found there is at most `SERVED_SECONDS` old, which is too old for whoever has just heard that an account was changed, and
would then remember what it was before. So a name is not looked for in the mirror for that long after a word about it, and nothing
is while no word can be heard (`HeardNotices` sees every word before those who let go of what they remember):

    changed ──▶ heard ◀── 5 s: MongoDB ──▶ from here on the mirror is younger than the word

That nothing is found proves nothing: MongoDB is asked, as it is whenever somebody of that name may not be used, a collection is not
served, or Redis is away. Who the name belongs to is decided by the same code from what either gave.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from bson import ObjectId

from companion.core.errors import CompanionError
from companion.core.model import Lookup, Notice, Scope
from companion.core.ports import Mirror, Notices
from companion.stores.mongo.following import SERVED_SECONDS
from companion.stores.mongo.hot import KEY, Hot, document_in
from companion.stores.mongo.mapping import Document

_MARGIN: Final = 1.1
"""Clocks go at different speeds, if only a little."""

_MOST_NAMES: Final = 10_000


class Nearby:
    """The documents of accounts in the mirror, by the names of the collections that are mirrored."""

    def __init__(self, mirror: Mirror, hots: Sequence[Hot], clock: Callable[[], float] = time.monotonic) -> None:
        self.told: Callable[[Lookup], None] = lambda _: None
        self._mirror = mirror
        self._hots = tuple(hots)
        self._clock = clock
        self._bound = SERVED_SECONDS * _MARGIN
        self._recently: dict[str, float] = {}
        self._all_until = float("inf")

    def heard(self, notices: Sequence[Notice]) -> None:
        """Take note of words about what changed; without any: that words are heard from now on."""
        until = self._clock() + self._bound
        if not notices or any(one.scope is Scope.EVERYTHING for one in notices):
            self._all_until = until
            self._recently.clear()
        for one in notices:
            if one.scope is Scope.ACCOUNT:
                # The one that was told last is the last of them.
                self._recently.pop(one.name, None)
                self._recently[one.name] = until
        if len(self._recently) > _MOST_NAMES:
            self._all_until = until
            self._recently.clear()

    def deaf(self) -> None:
        """Take note that no word is heard any more."""
        self._all_until = float("inf")

    async def find(self, username: str) -> Mapping[str, Sequence[Document]] | None:
        """Return the documents with this name, for every collection that is mirrored; None when MongoDB is to be asked."""
        if self._is_recent(username):
            self.told(Lookup.RECENT)
            return None
        # MongoDB finds an ObjectId also by capitals, which are another text.
        if ObjectId.is_valid(username) and username != username.lower():
            self.told(Lookup.MISS)
            return None
        try:
            answers = await asyncio.gather(*(self._mirror.find(hot.place, KEY, username) for hot in self._hots))
        except CompanionError:
            self.told(Lookup.AWAY)
            return None
        found: dict[str, Sequence[Document]] = {}
        for hot, copies in zip(self._hots, answers, strict=True):
            if copies is None:
                self.told(Lookup.SILENT)
                return None
            documents = [document for copy in copies if (document := document_in(copy)) is not None]
            if len(documents) < len(copies):
                self.told(Lookup.MISS)
                return None
            found[hot.collection] = documents
        if not any(found.values()):
            self.told(Lookup.MISS)
            return None
        return found

    def _is_recent(self, username: str) -> bool:
        now = self._clock()
        while self._recently:
            first = next(iter(self._recently))
            if self._recently[first] > now:
                break
            del self._recently[first]
        return now < self._all_until or username in self._recently


class HeardNotices:
    """The port `Notices` over another one: whoever looks into the mirror hears each word before those who follow."""

    def __init__(self, notices: Notices, nearby: Nearby) -> None:
        self._notices = notices
        self._nearby = nearby

    async def announce(self, notice: Notice) -> None:
        """Tell every follower."""
        self._nearby.heard([notice])
        await self._notices.announce(notice)

    async def follow(self) -> AsyncIterator[Sequence[Notice]]:
        """Yield what changed."""
        try:
            async with contextlib.aclosing(self._notices.follow()) as words:  # type: ignore[type-var]
                async for notices in words:
                    self._nearby.heard(notices)
                    yield notices
        finally:
            self._nearby.deaf()
