"""Which store: the one that the settings name."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from companion.core.ports import Store
from companion.settings import Settings
from companion.stores.embedded import EmbeddedStore


@contextlib.asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """Open the store until the block ends.

    The embedded store raises `CompanionError` when it cannot be used; the production stores may come later and are waited for.
    """
    if settings.store == "production":
        # Who needs one machine only need not load two drivers.
        from companion.stores.production import ProductionStore  # noqa: PLC0415 - see above

        async with ProductionStore.open(settings) as production:
            yield production
    else:
        async with EmbeddedStore.open(settings.data_dir, settings.cache_poll) as embedded:
            yield embedded
