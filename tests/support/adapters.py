"""The adapters of the stores' ports; every contract suite runs on each of them that has its ports."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from companion.stores.embedded import EmbeddedStore
from tests.support import mongo, production, redis

Open = Callable[[], AbstractAsyncContextManager[Any]]
"""Opens a store, or what of one an adapter has; every call opens one more on the same data."""

EVERY_PORT: Final = frozenset(
    {
        "accounts",
        "rules",
        "sessions",
        "tokens",
        "uses",
        "notices",
        "counters",
        "lockouts",
        "leases",
        "inbox",
        "checkpoints",
        "audits",
        "revocations",
        "account_changes",
        "runs",
        "documents",
        "presence",
        "statistics",
    }
)
"""Those of a whole store; `mirror` and `proofs` are only where there is something to be nearer than."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """What has these ports. `make` makes data, empty at first, that belongs to one test and may use this folder."""

    make: Callable[[Path], Open]
    ports: frozenset[str] = EVERY_PORT


def _embedded(folder: Path) -> Open:
    return functools.partial(EmbeddedStore.open, folder / "data", 0.02)


ADAPTERS: Final[Mapping[str, Adapter]] = {
    "embedded": Adapter(_embedded),
    "redis": Adapter(redis.adapter(redis.debian_redis), redis.PORTS),
    "production": Adapter(production.adapter, EVERY_PORT | {"mirror", "proofs"}),
    "mongo": Adapter(mongo.adapter, mongo.PORTS),
    "valkey": Adapter(redis.adapter(redis.valkey), redis.PORTS),
}
