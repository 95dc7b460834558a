"""`POST /changes`: take over changes durably, then answer 202."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import hdrs, web

from companion.core import strict_json
from companion.core.errors import Invalid
from companion.core.model import Change
from companion.core.ports import Inbox
from companion.core.routing import Router
from companion.door import Door, as_json, problem, read_body, told
from companion.metrics import Metrics
from publishers.intake import parse_changes

_DEADLINE: Final = 30.0


class ChangesApi:
    """The handler; `taken` is called after changes were stored, to wake whoever publishes them."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        router: Router,
        door: Door,
        metrics: Metrics,
        max_body: int,
        max_batch: int,
        taken: Callable[[], None],
    ) -> None:
        self._inbox = inbox
        self._router = router
        self._door = door
        self._taken_metric = metrics.publishing.taken
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
        refusal = self._door.turned_away(request)
        if refusal is not None:
            return refusal
        try:
            async with asyncio.timeout(_DEADLINE):
                return await self._take(request)
        except TimeoutError:
            return self._rejected(problem(408, f"the changes were not taken within {_DEADLINE:g} s"))
        except Exception as cause:
            answer = told(cause, away="the changes were not stored")
            if answer is None:
                raise
            return self._rejected(answer)

    async def _take(self, request: web.Request) -> web.Response:
        if request.headers.get(hdrs.CONTENT_TYPE) and request.content_type != "application/json":
            return self._rejected(
                problem(415, f"the content type {request.content_type[:80]!a} is not application/json")
            )
        content = strict_json.decode(await read_body(request, self._max_body))
        changes = parse_changes(content, self._max_batch)
        unrouted = await self._unrouted(changes, listed=isinstance(content, list))
        taken = await self._inbox.append(changes)
        self._taken_metric.labels("accepted").inc(taken.accepted)
        self._taken_metric.labels("duplicate").inc(taken.duplicates)
        self._wake()
        return as_json(
            {
                "accepted": taken.accepted,
                "duplicates": taken.duplicates,
                "unrouted": unrouted,
                "event_ids": [change.event_id for change in changes],
            },
            202,
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

    def _rejected(self, answer: web.Response) -> web.Response:
        self._taken_metric.labels("rejected").inc()
        return answer

    async def _continue(self, request: web.Request) -> web.StreamResponse | None:
        """Ask for the body (RFC 9110 §10.1.1) only if the caller has a key and the body is not too long anyway."""
        if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
            return problem(417, "the only expectation that is understood is 100-continue")
        admitted = self._door.admits(request)
        if admitted and (request.content_length or 0) <= self._max_body and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None
