"""The hooks over HTTP: one function answers every request, and whatever happens in it becomes an explicit verdict.

EMQX takes any status but 200 and 204 for "ignore" and asks the next source, so only a caller without a valid hook key gets
something else: 401, its body unread. aiohttp's low-level server is used because there are two paths and one method of answering:
its router and middlewares cost a third of the throughput and would decide nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import structlog
from aiohttp import hdrs, web

from broker_hooks import wire, wire_v4
from broker_hooks.answers import HEADERS, Answer, Answers
from broker_hooks.deadline import within
from broker_hooks.events import PATH as EVENTS_PATH
from broker_hooks.events import EventsHandler
from broker_hooks.quick import Connection, Head, Heads
from broker_hooks.recorder import Recorder
from companion.core.errors import CompanionError, Permanent, Transient
from companion.core.model import Access, Connect, Decision, Deny, Reason
from companion.core.scram import ScramKeys
from companion.keys import Keyring
from companion.logs import told
from companion.metrics import Hook, Metrics

log = structlog.get_logger("broker_hooks.app")


class _Way(NamedTuple):
    """What is asked at a path, and whether in the way of EMQX 4.4."""

    hook: Hook
    in_v4: bool
    recalled: bool = False
    """Whether memory may answer at once."""


_PATHS: Final = {
    "/mqtt/auth": _Way("auth", in_v4=False, recalled=True),
    "/mqtt/authz": _Way("authz", in_v4=False, recalled=True),
    "/mqtt/scram": _Way("scram", in_v4=False),
    **{path: _Way(hook, in_v4=True) for path, hook in wire_v4.PATHS.items()},
}
_METHODS: Final = frozenset({hdrs.METH_GET, hdrs.METH_POST})
_BODILESS: Final = frozenset({hdrs.METH_HEAD, hdrs.METH_CONNECT})
"""Their answers have no body (RFC 9110 §9.3): no verdict can be in one, so it is the status that refuses."""
_UNAUTHORIZED: Final = b'{"error":"a valid hook key is needed: Authorization: Bearer ..."}'
_DRAINED: Final = 16 * 1024 * 1024
_DECIDED_LATE: Final = Deny(Reason.DEADLINE)


class _TooLarge(CompanionError):
    """The body or the query is longer than allowed."""


class HooksHandler:
    """Answers `POST` (or `GET`, as `method = get` sends it) on `/mqtt/auth` and `/mqtt/authz`, below `/v4/` in EMQX 4.4's way.

    `events` answers on a path of its own; with `scram` it answers on `/mqtt/scram` too. What `recall` and `recall_access` decide,
    from memory and at once, needs no task (`broker_hooks.quick`); they return None for what has to be asked.
    """

    def __init__(
        self,
        *,
        keyring: Keyring,
        recorder: Recorder,
        metrics: Metrics,
        authenticate: Callable[[Connect], Awaitable[Decision]],
        authorize: Callable[[Access], Awaitable[Decision]],
        max_body: int,
        deadline: float,
        complete: Callable[[Connect, Decision], Awaitable[Decision]] | None = None,
        events: EventsHandler | None = None,
        scram: Callable[[Connect], Awaitable[tuple[Decision, ScramKeys | None]]] | None = None,
        recall: Callable[[Connect], Decision | None] = lambda _: None,
        recall_access: Callable[[Access], Decision | None] = lambda _: None,
    ) -> None:
        self._keyring = keyring
        self._events = events
        self._recorder = recorder
        self._seconds = metrics.seconds_of
        self._unauthorized = metrics.unauthorized.labels("hooks").inc
        self._authenticate = authenticate
        self._authorize = authorize
        self._complete = complete
        self._max_body = max_body
        self._deadline = deadline
        self._scram = scram
        self._answers = Answers()
        self._recall = recall
        self._recall_access = recall_access
        self.heads: Final = Heads()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        connection = request.protocol if isinstance(request.protocol, Connection) else None
        if self._keyring.admits(request.headers.get(hdrs.AUTHORIZATION)):
            way = self._way(request)
            if connection is not None:
                connection.begun(request, way.hook if way is not None and way.recalled else None)
            response = await self._respond(request, way)
        else:
            response = self._refuse_caller(request)
        if connection is not None and not isinstance(response, Answer):
            connection.hand_over()
        return response

    def at_once(self, head: Head, body: bytes) -> bytes | None:
        """Return the whole answer to a request with a valid key, as far as memory decides; None for what takes the long way."""
        started = time.perf_counter()
        asked: Connect | Access
        try:
            fields = wire.decode(body, head.content_type)
            if head.hook == "auth":
                asked = connect = wire.connect(fields)
                decision = self._recall(connect)
            else:
                asked = access = wire.access(fields)
                decision = self._recall_access(access)
        except wire.Malformed:
            return None
        except Exception as problem:  # noqa: BLE001 - the long way makes a denial of whatever is wrong
            log.error("hook failed", hook=head.hook, problem=told(problem))
            return None
        if decision is None:
            return None
        self._recorder.record(head.hook, decision, asked)
        self._seconds[head.hook](time.perf_counter() - started)
        return self._answers.message(wire.encode(decision))

    async def _respond(self, request: web.BaseRequest, way: _Way | None) -> web.StreamResponse:
        started = time.perf_counter()
        if way is None and self._events is not None and request.path == EVENTS_PATH:
            return await self._events.answer(request)
        if way is None or request.method not in _METHODS:
            return await self._refuse_endpoint(request, "auth" if way is None else way.hook)
        hook, in_v4, _ = way
        asked: list[Connect | Access] = []
        keys: list[ScramKeys] = []
        try:
            decision = await within(self._deadline, self._decide(hook, request, asked, keys, in_v4=in_v4))
        except TimeoutError:
            decision = _DECIDED_LATE
        except _TooLarge:
            await _drain(request, self._deadline)
            decision = Deny(Reason.TOO_LARGE, detail=f"more than {self._max_body} bytes")
        except wire.Malformed as problem:
            decision = Deny(Reason.MALFORMED, detail=str(problem))
        except (Transient, Permanent) as problem:
            decision = Deny(Reason.STORE_AWAY, detail=str(problem))
        except Exception as problem:  # noqa: BLE001 - the one place where whatever went wrong becomes a denial
            # The kind and the place only: the message could repeat what was sent.
            log.error("hook failed", hook=hook, problem=told(problem))
            decision = Deny(Reason.INTERNAL, detail=type(problem).__name__)
        self._recorder.record(hook, decision, asked[0] if asked else None)
        self._seconds[hook](time.perf_counter() - started)
        if in_v4:
            return wire_v4.answer(decision)
        return self._answers.to(request, wire.encode_scram(decision, keys[0]) if keys else wire.encode(decision))

    def _way(self, request: web.BaseRequest) -> _Way | None:
        # As it was sent, it is mostly one of ours; only another one is worth decoding.
        way = _PATHS.get(request.raw_path) or _PATHS.get(request.path)
        return None if way is not None and way.hook == "scram" and self._scram is None else way

    async def _refuse_endpoint(self, request: web.BaseRequest, hook: Hook) -> web.Response:
        await _drain(request, self._deadline)
        detail = f"no such hook: the paths are {', '.join(_PATHS)}, the methods POST and GET"
        unknown = Deny(Reason.UNKNOWN_ENDPOINT, detail=detail)
        self._recorder.record(hook, unknown, None)
        if wire_v4.speaks(request.path):
            return wire_v4.answer(unknown)
        if request.method in _BODILESS:
            return web.Response(status=405, headers={**HEADERS, hdrs.ALLOW: "GET, POST"})
        return web.Response(body=wire.DENY, headers=HEADERS)

    async def _decide(
        self,
        hook: Hook,
        request: web.BaseRequest,
        asked: list[Connect | Access],
        keys: list[ScramKeys],
        *,
        in_v4: bool,
    ) -> Decision:
        fields = await self._fields(request)
        if in_v4:
            fields = wire_v4.named(fields)
        if hook == "auth":
            connect = wire.connect(fields)
            asked.append(connect)
            decision = await self._authenticate(connect)
            # EMQX 4.4 reads a status and nothing else.
            return decision if self._complete is None or in_v4 else await self._complete(connect, decision)
        if hook == "superuser":
            return wire_v4.NO_SUPERUSER
        if hook == "scram" and self._scram is not None:
            connect = wire.connect(fields)
            asked.append(connect)
            decision, found = await self._scram(connect)
            keys += [found] if found is not None else []
            return decision if self._complete is None else await self._complete(connect, decision)
        access = wire.access(fields)
        asked.append(access)
        return await self._authorize(access)

    async def _fields(self, request: web.BaseRequest) -> wire.Fields:
        if request.method == hdrs.METH_GET:
            if len(request.rel_url.raw_query_string) > self._max_body:
                raise _TooLarge
            return wire.decode_query(request.rel_url.raw_query_string)
        content = request.content
        # Mostly the whole body came together with the head.
        whole = content.is_eof() and content.exception() is None
        body = content.read_nowait() if whole else await self._body(request)
        if len(body) > self._max_body:
            raise _TooLarge
        return wire.decode(body, request.headers.get(hdrs.CONTENT_TYPE, ""))

    async def _body(self, request: web.BaseRequest) -> bytes:
        content = request.content
        if (request.content_length or 0) > self._max_body:
            raise _TooLarge
        try:
            body = content.read_nowait()
            while not content.at_eof() and len(body) <= self._max_body:
                body += await content.readany()
        except ConnectionError:
            raise wire.Malformed("the connection ended before the body did") from None
        except asyncio.CancelledError:
            if content.exception() is None:
                raise
            # Whoever hangs up has us cancelled; what they were about to ask is not known.
            raise wire.Malformed("the connection ended before the body did") from None
        return body

    def _refuse_caller(self, request: web.BaseRequest) -> web.Response:
        self._unauthorized()
        response = web.Response(status=401, body=_UNAUTHORIZED, headers={**HEADERS, hdrs.WWW_AUTHENTICATE: "Bearer"})
        if request.can_read_body:
            response.force_close()
        return response


async def _drain(request: web.BaseRequest, seconds: float) -> None:
    """Read a refused body to its end, within limits: a connection reset on unread data would cost the caller our answer."""
    drained = 0
    try:
        async with asyncio.timeout(seconds):
            while (chunk := await request.content.readany()) and drained < _DRAINED:
                drained += len(chunk)
    except (TimeoutError, web.HTTPException, ConnectionError):
        return
