"""`POST /explain` on the operations port: why somebody may or may not publish or subscribe."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import hdrs, web

from broker_hooks.explain_request import asked
from broker_hooks.explaining import Explainer
from companion.core import strict_json
from companion.core.errors import Invalid
from companion.keys import Keyring
from companion.metrics import Metrics

_MAX_BODY: Final = 1_048_576


class ExplainApi:
    """The handler."""

    def __init__(self, explainer: Explainer, keyring: Keyring, metrics: Metrics) -> None:
        self._explainer = explainer
        self._keyring = keyring
        self._unauthorized = metrics.unauthorized.labels("ops")

    def add_routes(self, app: web.Application) -> None:
        """Put the handler on the operations port."""
        app.router.add_post("/explain", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        if not self._keyring.admits(request.headers.get(hdrs.AUTHORIZATION)):
            self._unauthorized.inc()
            response = _json({"error": "a valid key is needed: Authorization: Bearer ..."}, 401)
            response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
            return response
        body = await request.content.read(_MAX_BODY + 1)
        if len(body) > _MAX_BODY:
            return _json({"error": f"the body is longer than {_MAX_BODY} bytes"}, 413)
        try:
            access, at = asked(strict_json.decode(body))
        except strict_json.NotJson as problem:
            return _json({"error": str(problem)}, 400)
        except Invalid as problem:
            return _json({"error": str(problem), "field": problem.field}, 422)
        return _json(await self._explainer.explain(access, at))


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(status=status, content_type="application/json", body=msgspec.json.encode(body))
