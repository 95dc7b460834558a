"""The measure of the hooks: an aiohttp handler that allows everything, as fast as a plain `web.Application` can."""

from __future__ import annotations

import asyncio
import signal
from typing import Final

from aiohttp import web

from benchmarks._processes import announce
from companion.background import run

_ALLOW: Final = b'{"result":"allow"}'


async def _allow(_request: web.Request) -> web.Response:
    return web.Response(body=_ALLOW, content_type="application/json")


async def _serve() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    app = web.Application()
    for path in ("/mqtt/auth", "/mqtt/authz"):
        app.router.add_post(path, _allow)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    announce(http=runner.addresses[0][1])
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    run(_serve())
