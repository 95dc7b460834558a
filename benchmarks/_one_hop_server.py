"""The whole product in the role `hooks`, as in `_hooks_server`, giving EMQX the whole policy with a login.

Argument: its folder. Sessions end with their tokens, so that every answer is known beforehand.
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


async def _serve(data_dir: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with EmbeddedStore.open(data_dir) as store:
        for rule in _traffic.RULES:
            await store.rules.add(rule)
    settings = Settings(
        data_dir=data_dir,
        hooks_port=0,
        ops_port=0,
        hooks_keys=(SecretStr(_traffic.HOOK_KEY),),
        token_secrets=(SecretStr(_traffic.TOKEN_SECRET),),
        hooks_acl=True,
        hooks_acl_seconds=0,
    )
    configure_logs(settings.log_format, settings.log_level)
    async with running(settings, Role.HOOKS) as service:
        announce(http=service.hooks_port or 0, ops=service.ops_port)
        await stop.wait()


if __name__ == "__main__":
    run(_serve(Path(sys.argv[1])))
