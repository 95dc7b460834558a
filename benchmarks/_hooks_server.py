"""The whole product in the role `hooks`, with a store of its own that holds the benchmark's accounts and rules.

Arguments: its folder, the number of workers unless it is one, and that of devices unless it is the fleet of the hook benchmark.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from benchmarks import _traffic
from benchmarks._processes import announce
from companion.background import run
from companion.core.model import Account
from companion.logs import configure_logs
from companion.runtime import running
from companion.settings import Role, Settings
from companion.stores.embedded import EmbeddedStore

hooks_settings: Final = functools.partial(
    Settings,
    hooks_port=0,
    ops_port=0,
    hooks_keys=(SecretStr(_traffic.HOOK_KEY),),
    token_secrets=(SecretStr(_traffic.TOKEN_SECRET),),
)
"""The settings under which the hooks are measured."""


async def serve(settings: Settings, accounts: Sequence[Account], workers: int = 1) -> None:
    """Serve these accounts by the benchmark's rules until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with EmbeddedStore.open(settings.data_dir) as store:
        await store.accounts.add(accounts)
        for rule in _traffic.RULES:
            await store.rules.add(rule)
    configure_logs(settings.log_format, settings.log_level)
    async with running(settings, Role.HOOKS, workers) as service:
        announce(http=service.hooks_port or 0, ops=service.ops_port)
        await stop.wait()


if __name__ == "__main__":
    folder, counts = Path(sys.argv[1]), [int(count) for count in sys.argv[2:]]
    count, devices = counts + [1, _traffic.DEVICES][len(counts) :]
    # A whole fleet comes from one address here.
    run(serve(hooks_settings(data_dir=folder, throttle_address_failures=0), _traffic.accounts(devices), count))
