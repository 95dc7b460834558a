"""A bounded cache with a jittered life: many entries made at once do not end at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from companion.metrics import Metrics

K = TypeVar("K")
V = TypeVar("V")

_JITTER: Final = 0.2


class Cache(Generic[K, V]):
    """At most `entries` values, each for at most `seconds`; when full, the oldest goes.

    A value that was loaded before `clear` and arrives after it is not kept: take the `epoch` before loading, give it to `put`.
    """

    def __init__(
        self, name: str, entries: int, seconds: float, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._values: dict[K, tuple[float, V]] = {}
        self._entries = entries
        self._seconds = seconds
        self._clock = clock
        self._hits = metrics.hits[name]
        self._misses = metrics.misses[name]
        self.epoch = 0
        metrics.cache_entries.labels(name).set_function(lambda: len(self._values))

    def get(self, key: K) -> V | None:
        """Return the live value, or None."""
        entry = self._values.get(key)
        if entry is not None:
            if entry[0] > self._clock():
                self._hits.count += 1
                return entry[1]
            del self._values[key]
        self._misses.count += 1
        return None

    def put(self, key: K, value: V, epoch: int) -> None:
        """Keep the value, unless the cache was cleared since `epoch`."""
        if epoch != self.epoch or not self._entries:
            return
        self._values.pop(key, None)
        while len(self._values) >= self._entries:
            del self._values[next(iter(self._values))]
        life = self._seconds * (1 - _JITTER * random.random())  # noqa: S311 - spreads load, protects nothing
        self._values[key] = (self._clock() + life, value)

    def forget(self, key: K) -> None:
        """Drop one value, and what is being loaded right now."""
        self._values.pop(key, None)
        self.epoch += 1

    def clear(self) -> None:
        """Drop everything, and what is being loaded right now."""
        self._values.clear()
        self.epoch += 1
