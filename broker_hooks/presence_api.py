"""Presence over HTTP, on the operations port: `GET /presence?principal=&client=&state=&after=&limit=`."""

from __future__ import annotations

import msgspec
from aiohttp import hdrs, web

from companion.core.errors import CompanionError, Invalid
from companion.core.ports import Presence
from companion.core.presence_view import asked, shown
from companion.keys import Keyring
from companion.metrics import Metrics


class PresenceApi:
    """The handler."""

    def __init__(self, *, presence: Presence, keyring: Keyring, metrics: Metrics) -> None:
        self._presence = presence
        self._keyring = keyring
        self._unauthorized = metrics.unauthorized.labels("ops")

    def add_routes(self, app: web.Application) -> None:
        """Put the handler on the operations port."""
        app.router.add_get("/presence", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        """Let in who has a key, and turn what goes wrong into an answer of one line."""
        if not self._keyring.admits(request.headers.get(hdrs.AUTHORIZATION)):
            self._unauthorized.inc()
            response = _json({"error": "a valid key is needed: Authorization: Bearer ..."}, 401)
            response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
            return response
        try:
            of = asked(dict(request.query))
            found = await self._presence.list(
                principal=of.principal, client_id=of.client_id, online=of.online, after=of.after, limit=of.limit
            )
        except Invalid as problem:
            return _json({"error": str(problem), "field": problem.field}, 422)
        except CompanionError as problem:
            response = _json({"error": f"the store did not answer: {problem}"}, 503)
            response.headers[hdrs.RETRY_AFTER] = "1"
            return response
        more = found[-1].client_id if len(found) == of.limit else None
        return _json({"clients": shown(found), "next": more})


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(status=status, content_type="application/json", body=msgspec.json.encode(body))
