"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from typing import Final

_STEADY_SECONDS: Final = 5.0


class Backoff:
    """Exponential back-off with full jitter: random between 0 and a ceiling that doubles with every attempt, in seconds.

    A connection earns a fresh start by outliving the ceiling, or 5 s. Being accepted is not enough: a broker that accepts and
    hangs up at once (two clients with one client identifier, for instance) would otherwise be asked at the initial pace for ever.
    """

    def __init__(self, initial: float, maximum: float) -> None:
        self._initial = initial
        self._maximum = maximum
        self._ceiling = initial

    def next(self) -> float:
        """Return the delay before the next attempt."""
        delay = random.uniform(0, self._ceiling)  # noqa: S311 - jitter, not a secret
        self._ceiling = min(self._maximum, 2 * self._ceiling)
        return delay

    def outlived(self, seconds: float) -> None:
        """Take note that a connection stood for so long."""
        if seconds > min(self._ceiling, _STEADY_SECONDS):
            self._ceiling = self._initial
