"""Revocations over HTTP, on the operations port: revoke, look how far it is, lift."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from companion.core import strict_json
from companion.core.errors import Invalid
from companion.core.ports import Revocations
from companion.core.revocations import Target, revocation_of, shown_revocation
from companion.door import Door, NotThere, as_json, number_of, read_body

_MAX_BODY: Final = 131_072
_MOST: Final = 1000
_TEXTS: Final = ("target", "name", "token", "reason")
_NUMBERS: Final = ("seconds", "ban_seconds")
_FLAGS: Final = ("refuse",)
_FIELDS: Final = (*_TEXTS, *_NUMBERS, *_FLAGS)
_STATES: Final[Mapping[str, bool | None]] = {"all": None, "waiting": True, "done": False}


class RevocationsApi:
    """The handlers; `asked` is called after somebody was revoked, to wake whoever kicks."""

    def __init__(
        self,
        *,
        revocations: Revocations,
        door: Door,
        asked: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._revocations = revocations
        self._door = door
        self._asked = asked
        self._now = now

    def add_routes(self, app: web.Application) -> None:
        """Put the handlers on the operations port."""
        app.router.add_get("/revocations", self._door.behind(self._list))
        app.router.add_post("/revocations", self._door.behind(self._revoke))
        app.router.add_get("/revocations/{id}", self._door.behind(self._show))
        app.router.add_post("/revocations/{id}/lift", self._door.behind(self._lift))

    async def _revoke(self, request: web.Request) -> web.Response:
        """Write the revocation; 202 means that it is durable and that the hooks refuse."""
        fields = strict_json.decode(await read_body(request, _MAX_BODY))
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
        return as_json(shown_revocation(revocation), 202)

    async def _list(self, request: web.Request) -> web.Response:
        limit, state = number_of(request, "limit", 100, _MOST), request.query.get("state", "all")
        if state not in _STATES:
            raise Invalid("state", state, f"one of {', '.join(_STATES)}")
        found = await self._revocations.list(waiting=_STATES[state], limit=limit)
        return as_json({"revocations": [shown_revocation(one) for one in found]})

    async def _show(self, request: web.Request) -> web.Response:
        found = await self._revocations.get(request.match_info["id"])
        if found is None:
            raise _unknown(request)
        return as_json(shown_revocation(found))

    async def _lift(self, request: web.Request) -> web.Response:
        found = await self._revocations.lift(request.match_info["id"], int(self._now() * 1000))
        if found is None:
            raise _unknown(request)
        self._asked()
        return as_json(shown_revocation(found), 202 if found.waiting else 200)


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


def _unknown(request: web.Request) -> NotThere:
    return NotThere(f"there is no revocation {request.match_info['id'][:80]!a} that stands for itself")
