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
from broker_hooks.answers import HEADERS, Answers
from broker_hooks.deadline import within
from broker_hooks.events import PATH as EVENTS_PATH
from broker_hooks.events import EventsHandler
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


_PATHS: Final = {
    "/mqtt/auth": _Way("auth", in_v4=False),
    "/mqtt/authz": _Way("authz", in_v4=False),
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

    `events` answers on a path of its own; with `scram` it answers on `/mqtt/scram` too.
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

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if not self._keyring.admits(request.headers.get(hdrs.AUTHORIZATION)):
            return self._refuse_caller(request)
        started = time.perf_counter()
        way = self._way(request)
        if way is None and self._events is not None and request.path == EVENTS_PATH:
            return await self._events.answer(request)
        if way is None or request.method not in _METHODS:
            return await self._refuse_endpoint(request, "auth" if way is None else way.hook)
        hook, in_v4 = way
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
