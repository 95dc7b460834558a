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

    def proof(self, name: str) -> str:
        """Return a credential that was verified; it ends with what it proves (PEXPIRE)."""
        return self._name(f"proof:{name}")

    @property
    def lockouts(self) -> str:
        """What the keys of lock-outs begin with.

        `:of:{key}`: hash of a lock-out; it ends when that is forgotten (PEXPIRE). `:log`: sorted set of keys by the number of what
        was last told about them; no TTL, bounded, those that ended go. `:last`: string, the last number; no TTL.
        """
        return self._name("lockouts")

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
    def facts(self) -> str:
        """Stream of what is to be counted of the inbox. No TTL: bounded in length, trimmed once it is counted."""
        return self._name("inbox", ":facts")

    @property
    def facts_lost(self) -> str:
        """String: how many the bound kept out. No TTL; owned by the inbox."""
        return self._name("inbox", ":facts:lost")

    @property
    def stats(self) -> str:
        """Hash: `fence` and `step` of the observer, the number of the last `flush`, `@{reader}` positions. No TTL."""
        return self._name("stats")

    @property
    def stats_live(self) -> str:
        """Hash of counters between two flushes. No TTL: the next flush renames it."""
        return self._name("stats", ":live")

    @property
    def stats_frozen(self) -> str:
        """Hash of counters that are being flushed, with `#` (the number) and `@{reader}` positions. No TTL: gone with the flush."""
        return self._name("stats", ":frozen")

    @property
    def notices(self) -> str:
        """Stream of notices. No TTL: bounded in length, the oldest go."""
        return self._name("notices", ":log")

    def mirror(self, collection: str) -> str:
        """Return what the keys of a mirrored collection begin with. They are owned by the watcher; what follows says which it is.

        `:live`, `:last` and `:fence`: strings, the generation that is read, the last one made, the newest writer; no TTL.
        `:served`: a string that lasts for as long as the copies may be read (PEXPIRE).
        `:old`: sorted set of generations to sweep; no TTL, empty once all are swept.
        `:{generation}:doc:{id}`: hash of version, document and keys; if gone the version only, for a day (PEXPIREAT).
        `:{generation}:by:{key}:{value}`: set of ids; no TTL, gone with its last id.
        `:{generation}:gone`: sorted set of ids that are gone by when that is forgotten (Unix milliseconds); no TTL, swept with the
        generation; puts remove those that are over.
        `:{generation}:number`: a string, the number of the last put; no TTL, swept with the generation.
        `:{generation}:ids` and `:{generation}:digests`: sorted set of ids and hash of digests; no TTL, swept with the generation.
        """
        return self._name(f"mirror:{collection}")
