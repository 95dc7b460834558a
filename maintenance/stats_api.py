"""Statistics over HTTP, on the operations port: `GET /stats?owner=&key=&flag=&from=&to=&by=`."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import hdrs, web

from companion.core.errors import CompanionError, Invalid
from companion.core.ports import Statistics
from companion.core.stats import Zones
from companion.core.stats_view import asked, series, shown
from companion.keys import Keyring
from companion.metrics import Metrics

_FIELDS: Final = frozenset({"owner", "key", "flag", "from", "to", "by"})


class StatsApi:
    """The handler."""

    def __init__(
        self,
        *,
        statistics: Statistics,
        zones: Zones,
        keyring: Keyring,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._statistics = statistics
        self._zones = zones
        self._keyring = keyring
        self._unauthorized = metrics.unauthorized.labels("ops")
        self._now = now

    def add_routes(self, app: web.Application) -> None:
        """Put the handler on the operations port."""
        app.router.add_get("/stats", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        """Let in who has a key, and turn what goes wrong into an answer of one line."""
        if not self._keyring.admits(request.headers.get(hdrs.AUTHORIZATION)):
            self._unauthorized.inc()
            response = _json({"error": "a valid key is needed: Authorization: Bearer ..."}, 401)
            response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
            return response
        try:
            return await self._show(request)
        except Invalid as problem:
            return _json({"error": str(problem), "field": problem.field}, 422)
        except CompanionError as problem:
            response = _json({"error": f"the store did not answer: {problem}"}, 503)
            response.headers[hdrs.RETRY_AFTER] = "1"
            return response

    async def _show(self, request: web.Request) -> web.Response:
        for name, value in request.query.items():
            if name not in _FIELDS:
                raise Invalid(name, value, f"the fields are {', '.join(sorted(_FIELDS))}")
        fields = dict(request.query)
        moment = dt.datetime.fromtimestamp(self._now(), self._zones.of(fields.get("owner", "")))
        of = asked(fields, moment.date())
        stats = await self._statistics.read(of.owner, of.calendar, of.first, of.last, key=of.key, flag=of.flag)
        return _json(shown(series(stats, of), of))


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(status=status, content_type="application/json", body=msgspec.json.encode(body))
