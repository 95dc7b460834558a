"""Presence over HTTP, on the operations port: `GET /presence?principal=&client=&state=&after=&limit=`."""

from __future__ import annotations

from aiohttp import web

from companion.core.ports import Presence
from companion.core.presence_view import asked, shown
from companion.door import Door, as_json


class PresenceApi:
    """The handler."""

    def __init__(self, presence: Presence, door: Door) -> None:
        self._presence = presence
        self._door = door

    def add_routes(self, app: web.Application) -> None:
        """Put the handler on the operations port."""
        app.router.add_get("/presence", self._door.behind(self._answer))

    async def _answer(self, request: web.Request) -> web.Response:
        of = asked(dict(request.query))
        found = await self._presence.list(
            principal=of.principal, client_id=of.client_id, online=of.online, after=of.after, limit=of.limit
        )
        more = found[-1].client_id if len(found) == of.limit else None
        return as_json({"clients": shown(found), "next": more})
