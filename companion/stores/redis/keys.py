"""The name of every key, in one place.

Each begins with the configured prefix and the version of what lies behind it; the part in braces decides the slot of a cluster, so
that the keys of one script lie together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under a prefix."""

    prefix: str

    def _name(self, slot: str, rest: str = "") -> str:
        return f"{self.prefix}:v{VERSION}:{{{slot}}}{rest}"

    def lease(self, name: str) -> str:
        """Return the hash of holder and token; it ends with the lease (PEXPIRE)."""
        return self._name(f"lease:{name}")

    def lease_token(self, name: str) -> str:
        """Return the last token given. No TTL; owned by the lease's name, of which there is a handful."""
        return self._name(f"lease:{name}", ":token")

    def counter(self, key: str) -> str:
        """Return a count; it ends with its window (PEXPIRE)."""
        return self._name(f"count:{key}")

    def checkpoint(self, name: str) -> str:
        """Return the hash of position and fence. No TTL; owned by the reader of that name."""
        return self._name(f"checkpoint:{name}")

    @property
    def inbox(self) -> str:
        """Stream of changes that wait. No TTL: an entry goes when its change is acknowledged or buried."""
        return self._name("inbox", ":changes")

    @property
    def inbox_known(self) -> str:
        """Sorted set of event ids by position. No TTL: housekeeping removes them when their retention ends."""
        return self._name("inbox", ":known")

    @property
    def inbox_dead(self) -> str:
        """Sorted set of dead letters by position. No TTL: a person decides about them."""
        return self._name("inbox", ":dead")

    @property
    def inbox_last(self) -> str:
        """String: the last position given. No TTL; owned by the inbox."""
        return self._name("inbox", ":last")

    @property
    def notices(self) -> str:
        """Stream of notices. No TTL: bounded in length, the oldest go."""
        return self._name("notices", ":log")
