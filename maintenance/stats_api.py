"""Statistics over HTTP, on the operations port: `GET /stats?owner=&key=&flag=&from=&to=&by=`."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web

from companion.core.errors import Invalid
from companion.core.ports import Statistics
from companion.core.stats import Zones
from companion.core.stats_view import asked, series, shown
from companion.door import Door, as_json

_FIELDS: Final = frozenset({"owner", "key", "flag", "from", "to", "by"})


class StatsApi:
    """The handler."""

    def __init__(
        self,
        *,
        statistics: Statistics,
        zones: Zones,
        door: Door,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._statistics = statistics
        self._zones = zones
        self._door = door
        self._now = now

    def add_routes(self, app: web.Application) -> None:
        """Put the handler on the operations port."""
        app.router.add_get("/stats", self._door.behind(self._show))

    async def _show(self, request: web.Request) -> web.Response:
        for name, value in request.query.items():
            if name not in _FIELDS:
                raise Invalid(name, value, f"the fields are {', '.join(sorted(_FIELDS))}")
        fields = dict(request.query)
        moment = dt.datetime.fromtimestamp(self._now(), self._zones.of(fields.get("owner", "")))
        of = asked(fields, moment.date())
        stats = await self._statistics.read(of.owner, of.calendar, of.first, of.last, key=of.key, flag=of.flag)
        return as_json(shown(series(stats, of), of))
