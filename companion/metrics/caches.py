"""The metrics of the caches of the hooks."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from companion.tallies import TallyCounter

CACHES: Final = ("account", "policy", "session", "token", "credential", "refused", "sessionless")


class CacheMetrics:
    """Those of every cache, by its name in `CACHES`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        lookups = TallyCounter(
            "companion_cache_lookups", "Look-ups in the caches of the hooks.", ["cache", "outcome"], registry
        )
        self.hits = {cache: lookups.series(cache, "hit") for cache in CACHES}
        self.misses = {cache: lookups.series(cache, "miss") for cache in CACHES}
        self.entries = Gauge(
            "companion_cache_entries", "Entries in the caches of the hooks.", ["cache"], registry=registry
        )
        self.bytes = Gauge(
            "companion_cache_bytes", "Estimated size of the caches of the hooks.", ["cache"], registry=registry
        )
        self.stale_served = Counter(
            "companion_stale_served",
            "Expired entries that served because the store was away.",
            ["cache"],
            registry=registry,
        )
