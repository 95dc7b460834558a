"""What an operator should know about the stores before relying on them."""

from __future__ import annotations

from collections.abc import Sequence

from companion.settings import Settings
from companion.stores.findings import Finding
from companion.stores.opening import open_store


async def check(settings: Settings) -> Sequence[Finding]:
    """Look at everything that the configured stores need, and change nothing.

    Raises `CompanionError` when the embedded store cannot be opened, `Invalid` for an address that cannot be understood.
    """
    if settings.store == "production":
        # Who needs one machine only need not load two drivers.
        from companion.stores.production import look_at_both  # noqa: PLC0415 - see above

        return await look_at_both(settings)
    async with open_store(settings) as store:
        return [Finding(name, "can be read", problem) for name, problem in (await store.troubles()).items()]
