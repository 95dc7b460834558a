"""A bounded cache with a jittered life: many entries made at once do not end at once.

What has expired is kept a while longer, out of sight, for the case that the store is away when it is to be loaded again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from math import isfinite
from typing import Final, Generic, TypeVar

import msgspec

from companion.core.errors import Transient
from companion.metrics import Metrics

K = TypeVar("K")
V = TypeVar("V")

_JITTER: Final = 0.2
_STEPS: Final = 1000
"""Into so many parts the longest life is divided."""
_MOST_ENDS: Final = 2 * _STEPS
_NEVER: Final = float("inf")
_ENTRY_BYTES: Final = 250
"""What a key and the bookkeeping of an entry take, roughly."""


class _Entry(msgspec.Struct, Generic[V], frozen=True, gc=False):
    """A value, when it ends by the clock of the cache, and its weight; as small as can be, for there are many."""

    end: float
    value: V
    weight: int


class Cache(Generic[K, V]):
    """At most `entries` values of `size` bytes (as `weigh` estimates them), each for at most `seconds`; the oldest goes first.

    A value that was loaded before `clear` or `forget` and arrives after it is not kept: take the `epoch` before loading, give it to
    `put`. For `stale` seconds after its end a value may still serve through `load` when the store is away, or has said nothing for
    `patience` seconds (None: however long it takes).
    """

    def __init__(
        self,
        name: str,
        entries: int,
        seconds: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        size: int = 2**40,
        weigh: Callable[[V], int] = lambda _: 0,
        stale: float = 0.0,
        patience: float | None = None,
    ) -> None:
        self._values: dict[K, _Entry[V]] = {}
        self._loads: dict[K, tuple[int, asyncio.Task[V]]] = {}
        self._entries = entries
        self._seconds = seconds
        self._clock = clock
        self._step = seconds / _STEPS
        self._size = size
        self._weigh = weigh
        self._stale = stale
        self._patience = patience
        self._weight = 0
        # Weights are few and entries many: one number for all that weigh the same.
        self._weights: dict[int, int] = {}
        self._ends: dict[int, float] = {}
        self._hits = metrics.caches.hits[name]
        self._misses = metrics.caches.misses[name]
        self._stale_served = metrics.caches.stale_served.labels(name)
        self.epoch = 0
        self.cleared = 0
        """How often everything was dropped."""
        metrics.caches.entries.labels(name).set_function(lambda: len(self._values))
        metrics.caches.bytes.labels(name).set_function(lambda: self._weight)

    def get(self, key: K) -> V | None:
        """Return the live value, or None."""
        entry = self._values.get(key)
        if entry is not None:
            now = self._clock()
            if entry.end > now:
                self._hits.count += 1
                return entry.value
            if entry.end + self._stale <= now:
                self.drop(key)
        self._misses.count += 1
        return None

    def recall(self, key: K) -> V | None:
        """Return the live value, or None, uncounted: whoever makes use of it calls `used`, whoever does not asks `get`."""
        entry = self._values.get(key)
        return entry.value if entry is not None and entry.end > self._clock() else None

    def used(self) -> None:
        """Count a look-up that found something."""
        self._hits.count += 1

    def peek(self, key: K) -> tuple[V, float] | None:
        """Return the live value and how long (seconds) it lives on, for whoever only looks; None where there is none."""
        entry = self._values.get(key)
        left = 0.0 if entry is None else entry.end - self._clock()
        return None if entry is None or left <= 0 else (entry.value, left)

    def stale(self, key: K) -> V | None:
        """Return the value also if it has expired, but not for too long, or None."""
        entry = self._values.get(key)
        if entry is None:
            return None
        if entry.end + self._stale <= self._clock():
            self.drop(key)
            return None
        return entry.value

    async def load(self, key: K, loader: Callable[[], Awaitable[V]], usable: Callable[[V], bool] = lambda _: True) -> V:
        """Return what the loader loads; askers at the same time share one load. It is for the loader to `put` what may be kept.

        While the store is away (`Transient`) an expired value that is `usable` serves instead, if there is one. It need not wait
        for several time-outs in a row, which together are longer than whoever asks may wait.
        """
        epoch, task = self._loads.get(key, (-1, None))
        # A load that began before something changed must not answer those who ask after it.
        if task is None or epoch != self.epoch:
            task = asyncio.ensure_future(loader())
            self._loads[key] = (self.epoch, task)
            task.add_done_callback(lambda done: self._loaded(key, done))
        kept = self.stale(key)
        try:
            async with asyncio.timeout(None if kept is None else self._patience):
                # One asker that gives up takes nothing from the others.
                return await asyncio.shield(task)
        except (Transient, TimeoutError) as problem:
            kept = self.stale(key)
            if kept is not None and usable(kept):
                self._stale_served.inc()
                return kept
            if isinstance(problem, Transient):
                raise
        return await asyncio.shield(task)

    def end(self, key: K) -> float:
        """Return when the value ends or ended, by the clock of the cache; infinity where there is none."""
        entry = self._values.get(key)
        return float("inf") if entry is None else entry.end

    def put(self, key: K, value: V, epoch: int, until: float = float("inf")) -> None:
        """Keep the value, unless the cache was cleared since `epoch`; no longer than `until`, when what it was made from ends."""
        if epoch != self.epoch or not self._entries:
            return
        self.drop(key)
        weight = self._weigh(value) + _ENTRY_BYTES
        weight = self._weights.setdefault(weight, weight)
        if weight > self._size:
            return
        while len(self._values) >= self._entries or self._weight + weight > self._size:
            self.drop(next(iter(self._values)))
        life = self._seconds * (1 - _JITTER * random.random())  # noqa: S311 - spreads load, protects nothing
        self._values[key] = _Entry(self._rounded(min(self._clock() + life, until)), value, weight)
        self._weight += weight

    def _rounded(self, end: float) -> float:
        """Return the end, a little earlier, so that those that come at about the same time are one number."""
        if not isfinite(end):
            return _NEVER
        step = int(end / self._step)
        rounded = self._ends.get(step)
        if rounded is None:
            if len(self._ends) >= _MOST_ENDS:
                self._ends.clear()
            rounded = self._ends[step] = step * self._step
        return rounded

    def forget(self, key: K) -> None:
        """Drop one value, and what is being loaded right now: something has changed."""
        self.drop(key)
        self.epoch += 1

    def clear(self) -> None:
        """Drop everything, and what is being loaded right now."""
        self._values.clear()
        self._weight = 0
        self.epoch += 1
        self.cleared += 1

    def drop(self, key: K) -> None:
        """Drop one value: what was found out about it just now is another."""
        entry = self._values.pop(key, None)
        if entry is not None:
            self._weight -= entry.weight

    def _loaded(self, key: K, task: asyncio.Task[V]) -> None:
        if self._loads.get(key, (0, None))[1] is task:
            del self._loads[key]
        if not task.cancelled():
            task.exception()  # whoever asked got it; when all have gone nobody needs to hear of it
