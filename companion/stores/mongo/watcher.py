"""The port `Watcher`: the mirror of the collections that accounts are read from, kept and compared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from bson import Timestamp

from companion.core.errors import Fenced, Transient
from companion.core.model import Drift
from companion.core.ports import Compared, Copy, Mirror, Onlooker
from companion.stores.digests import digest_of, digest_of_all
from companion.stores.mongo.checkpoints import MongoCheckpoints
from companion.stores.mongo.client import MongoClient
from companion.stores.mongo.following import Following
from companion.stores.mongo.hot import Hot
from companion.stores.mongo.mirror_place import CHECKPOINT, COLLECTION, REBUILD, MirrorPlace, read_mirror_place
from companion.stores.mongo.ranges import Range, operation_time, read_range

_PASSED_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 0.05


class MongoWatcher:
    """Keeps the copies of `hots` in the mirror."""

    def __init__(self, client: MongoClient, mirror: Mirror, hots: Sequence[Hot], batch: int = 1000) -> None:
        self.collections: Sequence[str] = [hot.collection for hot in hots]
        self._client = client
        self._mirror = mirror
        self._hots = {hot.collection: hot for hot in hots}
        self._batch = batch
        self._checkpoints = MongoCheckpoints(client, COLLECTION)

    async def follow(self, fence: int, onlooker: Onlooker) -> None:
        """Keep the mirror; never returns."""
        following = Following(
            client=self._client,
            mirror=self._mirror,
            checkpoints=self._checkpoints,
            hots=list(self._hots.values()),
            fence=fence,
            onlooker=onlooker,
            batch=self._batch,
        )
        await following.run()

    async def compare(self, collection: str, after: str, limit: int, *, repair: bool) -> Compared:
        """Compare a range, and make good what differs.

        Only what still differs once the follower has passed the time of our reading is drift. A repair bears the version of our
        reading: whatever happened since wins over it, and so late it may come without harm.
        """
        hot = self._hots[collection]
        place = await self._place()
        if place.kept.get(hot.place) is None:
            return Compared(None, 0, {}, silent=True)
        found = await read_range(self._client, hot, after, limit)
        until = await operation_time(self._client)
        wanted = {one.id: one for one in found.copies if one.document is not None}
        digests = {one.id: digest_of(one.document or {}) for one in wanted.values()}
        whole = digest_of_all([digests[one] for one in sorted(digests, key=str.encode)])
        if whole == await self._mirror.digest(hot.place, after, found.through):
            return Compared(found.through, len(wanted), {})
        place = await self._passed(until)
        if place.kept.get(hot.place) is None:
            return Compared(None, 0, {}, silent=True)
        there = await self._mirror.digests(hot.place, after, found.through)
        drift = {
            Drift.MISSING: [wanted[one] for one in digests.keys() - there.keys()],
            Drift.STALE: [wanted[one] for one in digests.keys() & there.keys() if digests[one] != there[one]],
            Drift.SURPLUS: [Copy(one, found.version, None) for one in there.keys() - digests.keys()],
        }
        expired = [one for one in drift[Drift.STALE] if _has_expired(found, one, there[one.id])]
        drift[Drift.STALE] = [one for one in drift[Drift.STALE] if one not in expired]
        if not repair:
            return Compared(found.through, len(wanted), {kind: len(copies) for kind, copies in drift.items() if copies})
        await self._repair(hot, expired, place.fence)
        counted = {kind: await self._repair(hot, copies, place.fence) for kind, copies in drift.items() if copies}
        return Compared(found.through, len(wanted), {kind: count for kind, count in counted.items() if count})

    async def ask_for_rebuild(self) -> str:
        """Write down that it is wanted, where the follower sees it."""
        collection = self._client.database[COLLECTION]
        await self._client.call(
            lambda: collection.update_one({"_id": REBUILD}, {"$set": {"at": time.time_ns()}}, upsert=True)
        )
        at = await operation_time(self._client)
        return f"{at.time}.{at.inc}"

    async def rebuilt(self, asked: str) -> bool:
        """Tell whether the follower has come past that, and has nothing left to build."""
        seconds, _, increment = asked.partition(".")
        place = await self._place()
        return place.seen >= Timestamp(int(seconds), int(increment)) and not place.building

    async def _repair(self, hot: Hot, copies: Sequence[Copy], fence: int) -> int:
        """Write what was read; return how much of it was newer than what stands there."""
        if not copies:
            return 0
        try:
            # We write in the follower's name: whoever follows next would be shut out by a fence of ours.
            return await self._mirror.put(hot.place, copies, fence)
        except Fenced:
            raise Transient("another process has begun to keep the mirror") from None

    async def _place(self) -> MirrorPlace:
        text = await self._checkpoints.load(CHECKPOINT)
        return MirrorPlace() if text is None else read_mirror_place(text)

    async def _passed(self, until: Timestamp) -> MirrorPlace:
        """Return the follower's place once it is past this time."""
        deadline = time.monotonic() + _PASSED_SECONDS
        while (place := await self._place()).seen < until:
            if time.monotonic() > deadline:
                raise Transient("nobody keeps the mirror: no process with the role maintenance follows what changes")
            await asyncio.sleep(_LOOK_SECONDS)
        return place


def _has_expired(found: Range, wanted: Copy, there: str) -> bool:
    """Tell whether a copy differs only because its account has expired since it was written."""
    whole = found.whole.get(wanted.id)
    return whole is not None and digest_of(whole.document or {}) == there
