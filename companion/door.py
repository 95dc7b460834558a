"""The door of the operations port: who is let in, how a body is read, and what goes wrong told in one line.

Answers are JSON. 400: the body is none; 401: no valid key; 404: no such thing; 413: too long; 422: a field is wrong, with its name;
503: a store is away, with Retry-After.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import hdrs, web

from companion.core import strict_json
from companion.core.errors import CompanionError, Invalid
from companion.keys import Keyring
from companion.metrics import Metrics

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_RETRY_SECONDS: Final = "1"


class NotThere(Exception):
    """There is no such thing; the text says which."""


class TooLong(Exception):
    """The body is longer than allowed, in bytes."""

    def __init__(self, most: int) -> None:
        super().__init__(f"the body is longer than {most} bytes")


class Door:
    """Lets in whoever has a key, and answers what handlers raise."""

    def __init__(self, keyring: Keyring, metrics: Metrics) -> None:
        self._keyring = keyring
        self._unauthorized = metrics.unauthorized.labels("ops")

    def admits(self, request: web.Request) -> bool:
        """Tell whether the caller has a key."""
        return self._keyring.admits(request.headers.get(hdrs.AUTHORIZATION))

    def turned_away(self, request: web.Request) -> web.Response | None:
        """Return the answer to who has no key, whose body is not read; None for who has one."""
        if self.admits(request):
            return None
        self._unauthorized.inc()
        response = problem(401, "a valid key is needed: Authorization: Bearer ...")
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
        if request.can_read_body:
            response.force_close()
        return response

    def behind(self, handle: Handler) -> Handler:
        """Return the handler behind the door."""

        async def answer(request: web.Request) -> web.StreamResponse:
            refusal = self.turned_away(request)
            if refusal is not None:
                return refusal
            try:
                return await handle(request)
            except Exception as cause:
                found = told(cause)
                if found is None:
                    raise
                return found

        return answer


def told(cause: Exception, away: str = "the store did not answer") -> web.Response | None:
    """Return the answer to what a handler raised; None for what nobody foresaw. `away` says what it means that a store is."""
    match cause:
        case NotThere():
            return problem(404, str(cause))
        case TooLong():
            return problem(413, str(cause))
        case strict_json.RepeatedKey():
            return problem(400, f"the key {cause.key[:80]!a} is there twice in one object")
        case strict_json.NotJson():
            return problem(400, str(cause))
        case Invalid():
            return problem(422, str(cause), cause.field)
        case ConnectionError():
            return problem(400, "the connection ended before the body did")
        case CompanionError():
            response = problem(503, f"{away}: {cause}")
            response.headers[hdrs.RETRY_AFTER] = _RETRY_SECONDS
            return response
    return None


async def read_body(request: web.Request, most: int) -> bytes:
    """Return the whole body, in however many pieces it comes. Raises `TooLong`."""
    if (request.content_length or 0) > most:
        raise TooLong(most)
    body = bytearray()
    while chunk := await request.content.readany():
        body += chunk
        if len(body) > most:
            raise TooLong(most)
    return bytes(body)


def as_json(content: object, status: int = 200) -> web.Response:
    """Return an answer of JSON."""
    return web.Response(status=status, content_type="application/json", body=msgspec.json.encode(content))


def problem(status: int, message: str, field: str | None = None) -> web.Response:
    """Return an answer that says what is wrong, and with which field."""
    return as_json({"error": message} if field is None else {"error": message, "field": field}, status)


def number_of(request: web.Request, name: str, default: int, most: int) -> int:
    """Return a number of the query, from 1 to `most`. Raises `Invalid`."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= most:
        raise Invalid(name, text, f"a number from 1 to {most}")
    return int(text)
