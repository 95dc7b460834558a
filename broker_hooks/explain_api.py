"""`POST /explain` on the operations port: why somebody may or may not publish or subscribe."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from broker_hooks.explain_request import asked
from broker_hooks.explaining import Explainer
from companion.core import strict_json
from companion.door import Door, as_json, read_body

_MAX_BODY: Final = 1_048_576


class ExplainApi:
    """The handler."""

    def __init__(self, explainer: Explainer, door: Door) -> None:
        self._explainer = explainer
        self._door = door

    def add_routes(self, app: web.Application) -> None:
        """Put the handler on the operations port."""
        app.router.add_post("/explain", self._door.behind(self._answer))

    async def _answer(self, request: web.Request) -> web.Response:
        access, at = asked(strict_json.decode(await read_body(request, _MAX_BODY)))
        return as_json(await self._explainer.explain(access, at))
