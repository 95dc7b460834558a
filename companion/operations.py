"""The operations port: metrics, health, readiness; and whatever a role adds to it."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, Protocol

import msgspec
from aiohttp import web

from companion.metrics import Metrics
from companion.settings import Settings

Trouble = Callable[[], Awaitable[str | None]]
"""Returns in one line why a part cannot do its work, or None."""

_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
_IDLE_SECONDS: Final = 75.0


Stores = Callable[[], Awaitable[Mapping[str, str | None]]]
"""Returns the same of each store behind us."""


class Api(Protocol):
    """What a part of the service answers on the operations port."""

    def add_routes(self, app: web.Application) -> None:
        """Put the handlers on the port."""
        ...


Workers = Callable[[], Mapping[str, str | None]]
"""Returns the same of each worker process."""


def make_app(
    metrics: Metrics, troubles: Mapping[str, Trouble], stores: Stores, workers: Workers | None = None
) -> web.Application:
    """Return the application. `troubles` holds one check per role; they and the stores are asked at every `GET /readyz`.

    A store or a worker that is away is named; whether we are ready is for the roles to say, since some go on without it.
    """
    app = web.Application()

    async def show_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": _PROMETHEUS})

    async def show_health(_request: web.Request) -> web.Response:
        # The process answers: that is all. A store that is away must not get the process killed.
        return web.json_response({"status": "ok"})

    async def show_readiness(_request: web.Request) -> web.Response:
        found = {role: await trouble() for role, trouble in troubles.items()}
        ready = not any(found.values())
        body = {
            "status": "ready" if ready else "not ready",
            "roles": {role: problem or "ready" for role, problem in found.items()},
            "stores": {name: problem or "ready" for name, problem in (await stores()).items()},
        }
        if workers is not None:
            body["workers"] = {name: problem or "ready" for name, problem in workers().items()}
        return web.Response(
            status=200 if ready else 503, content_type="application/json", body=msgspec.json.encode(body)
        )

    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", show_health)
    app.router.add_get("/readyz", show_readiness)
    return app


@contextlib.asynccontextmanager
async def serving(app: web.Application, settings: Settings, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve `app` on the operations port until the block ends, and yield the bound port. Raises `OSError` when it is taken."""
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=_IDLE_SECONDS,
        lingering_time=2,
        auto_decompress=False,
        shutdown_timeout=settings.shutdown_deadline,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.ops_host, settings.ops_port, reuse_address=True, ssl_context=tls)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
