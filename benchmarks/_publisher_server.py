"""The whole product in the role `publisher`, with a store of its own."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from benchmarks._processes import announce
from companion.background import run
from companion.logs import configure_logs
from companion.runtime import running
from companion.settings import Role, Settings

OPS_KEY: Final = "ops-key-of-the-benchmark"


async def _serve(data_dir: Path, mqtt_port: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = Settings(
        data_dir=data_dir, hooks_port=0, ops_port=0, ops_keys=(SecretStr(OPS_KEY),), mqtt_port=mqtt_port
    )
    configure_logs(settings.log_format, settings.log_level)
    async with running(settings, Role.PUBLISHER) as service:
        announce(ops=service.ops_port)
        await stop.wait()


if __name__ == "__main__":
    run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
