"""The whole product in the role `hooks`, with a store of its own that holds the benchmark's accounts and rules.

Arguments: its folder, the number of workers unless it is one, and that of devices unless it is the fleet of the hook benchmark.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from pydantic import SecretStr

from benchmarks import _traffic
from benchmarks._processes import announce
from companion.background import run
from companion.logs import configure_logs
from companion.runtime import running
from companion.settings import Role, Settings
from companion.stores.embedded import EmbeddedStore


async def _serve(data_dir: Path, workers: int, devices: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with EmbeddedStore.open(data_dir) as store:
        await store.accounts.add(_traffic.accounts(devices))
        for rule in _traffic.RULES:
            await store.rules.add(rule)
    settings = Settings(
        data_dir=data_dir,
        hooks_port=0,
        ops_port=0,
        hooks_keys=(SecretStr(_traffic.HOOK_KEY),),
        token_secrets=(SecretStr(_traffic.TOKEN_SECRET),),
        # A whole fleet comes from one address here.
        throttle_address_failures=0,
    )
    configure_logs(settings.log_format, settings.log_level)
    async with running(settings, Role.HOOKS, workers) as service:
        announce(http=service.hooks_port or 0, ops=service.ops_port)
        await stop.wait()


if __name__ == "__main__":
    folder, counts = Path(sys.argv[1]), [int(count) for count in sys.argv[2:]]
    run(_serve(folder, *(counts + [1, _traffic.DEVICES][len(counts) :])))
