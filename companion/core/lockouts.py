"""Lock-outs: who is refused unseen, for how long, and for how much longer the next time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_NAME_CHARACTERS: Final = 256


@dataclass(frozen=True, slots=True)
class Target:
    """What is locked out: a user name at an address, or with an empty one everybody there; an IPv6 address stands for its /64.

    `key` tells targets apart; names are for people, and cut.
    """

    key: str
    username: str
    address: str

    @classmethod
    def of(cls, key: str, username: str, address: str) -> Target:
        """Return one whose names are not too long to be kept."""
        return cls(key, username[:_NAME_CHARACTERS], address[:_NAME_CHARACTERS])


@dataclass(frozen=True, slots=True)
class Lockout:
    """`target` is locked out until `until` (Unix milliseconds), for the `times`th time; `number` orders what is told about it."""

    target: Target
    until: int
    times: int
    number: int = 0

    def holds(self, now: float) -> bool:
        """Tell whether it holds now (Unix seconds)."""
        return self.until > now * 1000


@dataclass(frozen=True, slots=True)
class Growth:
    """How lock-outs grow: the first lasts `first`, each further one twice as long, none longer than `longest`.

    So long after its end (`memory`) a lock-out is forgotten, and the next is a first one. All in seconds.
    """

    first: float
    longest: float
    memory: float

    def next(self, target: Target, before: Lockout | None, now: float, number: int = 0) -> Lockout:
        """Return the lock-out after `before`, from now (Unix seconds) on; `before` itself while it holds."""
        if before is not None and before.holds(now):
            return before
        remembered = before is not None and before.until + self.memory * 1000 > now * 1000
        times = before.times + 1 if before is not None and remembered else 1
        return Lockout(target, int((now + self.seconds(times)) * 1000), times, number)

    def seconds(self, times: int) -> float:
        """Return how long the lock-out lasts that is the `times`th."""
        return min(self.first * 2.0 ** min(times - 1, 64), max(self.first, self.longest))
