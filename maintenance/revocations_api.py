"""Revocations over HTTP, on the operations port: revoke, look how far it is, lift."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from aiohttp import hdrs, web

from companion.core import strict_json
from companion.core.errors import CompanionError, Invalid
from companion.core.ports import Revocations
from companion.core.revocations import Target, revocation_of, shown_revocation
from companion.keys import Keyring
from companion.metrics import Metrics

_MAX_BODY: Final = 131_072
_MOST: Final = 1000
_TEXTS: Final = ("target", "name", "token", "reason")
_NUMBERS: Final = ("seconds", "ban_seconds")
_FLAGS: Final = ("refuse",)
_FIELDS: Final = (*_TEXTS, *_NUMBERS, *_FLAGS)
_STATES: Final[Mapping[str, bool | None]] = {"all": None, "waiting": True, "done": False}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RevocationsApi:
    """The handlers; `asked` is called after somebody was revoked, to wake whoever kicks."""

    def __init__(
        self,
        *,
        revocations: Revocations,
        keyring: Keyring,
        metrics: Metrics,
        asked: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._revocations = revocations
        self._keyring = keyring
        self._unauthorized = metrics.unauthorized.labels("ops")
        self._asked = asked
        self._now = now

    def add_routes(self, app: web.Application) -> None:
        """Put the handlers on the operations port."""
        app.router.add_get("/revocations", self._answered(self._list))
        app.router.add_post("/revocations", self._answered(self._revoke))
        app.router.add_get("/revocations/{id}", self._answered(self._show))
        app.router.add_post("/revocations/{id}/lift", self._answered(self._lift))

    def _answered(self, handle: Handler) -> Handler:
        """Let in who has a key, and turn what goes wrong into an answer of one line."""

        async def answer(request: web.Request) -> web.StreamResponse:
            if not self._keyring.admits(request.headers.get(hdrs.AUTHORIZATION)):
                self._unauthorized.inc()
                response = _json({"error": "a valid key is needed: Authorization: Bearer ..."}, 401)
                response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
                return response
            try:
                return await handle(request)
            except strict_json.NotJson as problem:
                return _json({"error": str(problem)}, 400)
            except Invalid as problem:
                return _json({"error": str(problem), "field": problem.field}, 422)
            except CompanionError as problem:
                response = _json({"error": f"the store did not answer: {problem}"}, 503)
                response.headers[hdrs.RETRY_AFTER] = "1"
                return response

        return answer

    async def _revoke(self, request: web.Request) -> web.Response:
        """Write the revocation; 202 means that it is durable and that the hooks refuse."""
        body = await request.content.read(_MAX_BODY + 1)
        if len(body) > _MAX_BODY or not request.content.at_eof():
            return _json({"error": f"the body is longer than {_MAX_BODY} bytes"}, 413)
        fields = strict_json.decode(body)
        if not isinstance(fields, dict):
            raise Invalid("body", type(fields).__name__, f"an object of {', '.join(_FIELDS)}")
        for name, value in fields.items():
            _check(name, value)
        text = fields.get("target", "")
        if text not in set(Target):
            raise Invalid("target", text, f"one of {', '.join(Target)}")
        revocation = revocation_of(
            Target(text),
            fields.get("name", ""),
            self._now(),
            token=fields.get("token", ""),
            seconds=fields.get("seconds"),
            ban=fields.get("ban_seconds") or 0,
            reason=fields.get("reason", ""),
            asked_by="http",
            refuse=fields.get("refuse", True),
        )
        await self._revocations.add(revocation)
        self._asked()
        return _json(shown_revocation(revocation), 202)

    async def _list(self, request: web.Request) -> web.Response:
        text, state = request.query.get("limit", "100"), request.query.get("state", "all")
        if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= _MOST:
            raise Invalid("limit", text, f"a number from 1 to {_MOST}")
        if state not in _STATES:
            raise Invalid("state", state, f"one of {', '.join(_STATES)}")
        found = await self._revocations.list(waiting=_STATES[state], limit=int(text))
        return _json({"revocations": [shown_revocation(one) for one in found]})

    async def _show(self, request: web.Request) -> web.Response:
        found = await self._revocations.get(request.match_info["id"])
        return _unknown(request) if found is None else _json(shown_revocation(found))

    async def _lift(self, request: web.Request) -> web.Response:
        found = await self._revocations.lift(request.match_info["id"], int(self._now() * 1000))
        if found is None:
            return _unknown(request)
        self._asked()
        return _json(shown_revocation(found), 202 if found.waiting else 200)


def _check(name: str, value: object) -> None:
    if name in _TEXTS:
        if not isinstance(value, str):
            raise Invalid(name, "***" if name == "token" else value, "text")
    elif name in _NUMBERS:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise Invalid(name, value, "seconds as a number")
    elif name in _FLAGS:
        if not isinstance(value, bool):
            raise Invalid(name, value, "true or false")
    else:
        raise Invalid(name, "a field", f"one of {', '.join(_FIELDS)}")


def _unknown(request: web.Request) -> web.Response:
    return _json({"error": f"there is no revocation {request.match_info['id'][:80]!a} that stands for itself"}, 404)


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(status=status, content_type="application/json", body=msgspec.json.encode(body))
