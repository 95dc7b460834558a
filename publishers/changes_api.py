"""`POST /changes`: take over changes durably, then answer 202."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from aiohttp import hdrs, web

from companion.core import strict_json
from companion.core.errors import CompanionError, Invalid
from companion.core.model import Change
from companion.core.ports import Inbox
from companion.core.routing import Router
from companion.keys import Keyring
from companion.metrics import Metrics
from publishers.intake import parse_changes

_DEADLINE: Final = 30.0
_RETRY_SECONDS: Final = "1"


class ChangesApi:
    """The handler; `taken` is called after changes were stored, to wake whoever publishes them."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        router: Router,
        keyring: Keyring,
        metrics: Metrics,
        max_body: int,
        max_batch: int,
        taken: Callable[[], None],
    ) -> None:
        self._inbox = inbox
        self._router = router
        self._keyring = keyring
        self._taken_metric = metrics.changes_taken
        self._unauthorized = metrics.unauthorized.labels("ops")
        self._max_body = max_body
        self._max_batch = max_batch
        self._wake = taken

    def add_routes(self, app: web.Application) -> None:
        """Put the handler on the operations port."""
        app.router.add_post("/changes", self.handle, expect_handler=self._continue)

    async def handle(self, request: web.Request) -> web.Response:
        """Answer 202 with what became of the changes, or a 4xx or 503 that says in one line what is wrong.

        202 means stored durably. `accepted` are new, `duplicates` had a known event id, `unrouted` of them concern nobody (no
        topic); `event_ids` are those of the request, in its order.
        """
        if not self._keyring.admits(request.headers.get(hdrs.AUTHORIZATION)):
            self._unauthorized.inc()
            response = _problem(401, "a valid key is needed: Authorization: Bearer ...")
            response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
            if request.can_read_body:
                response.force_close()
            return response
        try:
            async with asyncio.timeout(_DEADLINE):
                return await self._take(request)
        except _TooLarge:
            return self._rejected(413, f"the body is longer than {self._max_body} bytes: send fewer changes at a time")
        except strict_json.RepeatedKey as problem:
            return self._rejected(400, f"the key {problem.key[:80]!a} is there twice in one object")
        except strict_json.NotJson as problem:
            return self._rejected(400, str(problem))
        except Invalid as problem:
            return self._rejected(422, str(problem), field=problem.field)
        except ConnectionError:
            return self._rejected(400, "the connection ended before the body did")
        except TimeoutError:
            return self._rejected(408, f"the changes were not taken within {_DEADLINE:g} s")
        except CompanionError as problem:
            response = self._rejected(503, f"the changes were not stored: {problem}")
            response.headers[hdrs.RETRY_AFTER] = _RETRY_SECONDS
            return response

    async def _take(self, request: web.Request) -> web.Response:
        if request.headers.get(hdrs.CONTENT_TYPE) and request.content_type != "application/json":
            return self._rejected(415, f"the content type {request.content_type[:80]!a} is not application/json")
        content = strict_json.decode(await self._body(request))
        changes = parse_changes(content, self._max_batch)
        unrouted = await self._unrouted(changes, listed=isinstance(content, list))
        taken = await self._inbox.append(changes)
        self._taken_metric.labels("accepted").inc(taken.accepted)
        self._taken_metric.labels("duplicate").inc(taken.duplicates)
        self._wake()
        return web.Response(
            status=202,
            content_type="application/json",
            body=msgspec.json.encode(
                {
                    "accepted": taken.accepted,
                    "duplicates": taken.duplicates,
                    "unrouted": unrouted,
                    "event_ids": [change.event_id for change in changes],
                }
            ),
        )

    async def _unrouted(self, changes: Sequence[Change], *, listed: bool) -> int:
        """Count the changes without a topic. A batch can make millions of topics, so others get their turn in between."""
        count = 0
        for index, change in enumerate(changes):
            try:
                count += not self._router.topics(change)
            except Invalid as problem:
                raise problem.within(f"[{index}]") if listed else problem from None
            await asyncio.sleep(0)
        return count

    async def _body(self, request: web.Request) -> bytes:
        if (request.content_length or 0) > self._max_body:
            raise _TooLarge
        body = bytearray()
        while chunk := await request.content.readany():
            body += chunk
            if len(body) > self._max_body:
                raise _TooLarge
        return bytes(body)

    def _rejected(self, status: int, message: str, field: str | None = None) -> web.Response:
        self._taken_metric.labels("rejected").inc()
        return _problem(status, message, field)

    async def _continue(self, request: web.Request) -> web.StreamResponse | None:
        """Ask for the body (RFC 9110 §10.1.1) only if the caller has a key and the body is not too long anyway."""
        if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
            return _problem(417, "the only expectation that is understood is 100-continue")
        admitted = self._keyring.admits(request.headers.get(hdrs.AUTHORIZATION))
        if admitted and (request.content_length or 0) <= self._max_body and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None


class _TooLarge(CompanionError):
    """The body is longer than allowed."""


def _problem(status: int, message: str, field: str | None = None) -> web.Response:
    body = {"error": message} if field is None else {"error": message, "field": field}
    return web.Response(status=status, content_type="application/json", body=msgspec.json.encode(body))
