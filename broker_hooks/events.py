"""`POST /emqx/events`: what the broker tells of its clients is taken durably before it is answered.

    requests ──▶ events ──▶ one batch at a time, of all that wait ──▶ presence and events in the store ──▶ 200

What the answers do to EMQX's HTTP action (`emqx_bridge_http_connector.erl`, 5.8 to 6.2): after 2xx the event is gone from its
buffer; 429 and 503 are tried again until the action's `request_ttl`; any other status is not.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import structlog
from aiohttp import hdrs, web

from broker_hooks.answers import HEADERS
from broker_hooks.event_wire import parse
from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.errors import CompanionError, Invalid, Permanent
from companion.core.model import Audit
from companion.core.ports import Presence
from companion.logs import told
from companion.metrics import Metrics

log = structlog.get_logger("broker_hooks.events")

PATH: Final = "/emqx/events"
_BATCH: Final = 1000
_WAITING: Final = 10_000
_DRAINED: Final = 16 * 1024 * 1024
_KNOWN_ELSEWHERE: Final = frozenset({"http", "cache"})
"""Sources of a denial that the hooks have recorded themselves, or that repeat what was decided before."""


class Full(CompanionError):
    """Too many events wait."""


@dataclass(slots=True)
class _Waiting:
    events: Sequence[BrokerEvent]
    done: asyncio.Future[int]


class EventIntake:
    """Takes events into the store, those of many requests at once; every request waits until its own are there."""

    def __init__(
        self,
        presence: Presence,
        principal_of: Callable[[str], Awaitable[str]],
        record: Callable[[Audit], None],
    ) -> None:
        self._presence = presence
        self._principal_of = principal_of
        self._record = record
        self._waiting: deque[_Waiting] = deque()
        self._count = 0
        self._news = asyncio.Event()

    async def take(self, events: Sequence[BrokerEvent]) -> int:
        """Return how many were new, once all are durable. Raises `Full`, or what the store raises."""
        if self._count + len(events) > _WAITING:
            raise Full(f"more than {_WAITING} events wait")
        self._count += len(events)
        try:
            named = [replace(one, principal=await self._principal_of(one.username)) for one in events]
            waiting = _Waiting(named, asyncio.get_running_loop().create_future())
            self._waiting.append(waiting)
            self._news.set()
            return await waiting.done
        finally:
            self._count -= len(events)

    async def run(self) -> None:
        """Write what waits, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                await self._write(self._next())

    def _next(self) -> Sequence[_Waiting]:
        group: list[_Waiting] = []
        count = 0
        while self._waiting and (not group or count + len(self._waiting[0].events) <= _BATCH):
            group.append(self._waiting.popleft())
            count += len(group[-1].events)
        # Who has given up waiting has not been answered: the broker sends it again.
        return [one for one in group if not one.done.done()]

    async def _write(self, group: Sequence[_Waiting]) -> None:
        if not group:
            return
        try:
            new = frozenset(await self._presence.take([event for one in group for event in one.events]))
        except Permanent as problem:
            if len(group) > 1:
                # One of them cannot be stored; the others need not suffer for it.
                for one in group:
                    await self._write([one])
                return
            _fail(group, problem)
        except CompanionError as problem:
            _fail(group, problem)
        except Exception as problem:  # noqa: BLE001 - whatever it is, those behind it go on
            _fail(group, Permanent(told(problem)))
        except BaseException:
            _fail(group, Full("the service is ending"))
            raise
        else:
            for one in group:
                self._tell(one, new)

    def _tell(self, one: _Waiting, new: frozenset[str]) -> None:
        fresh = [event for event in one.events if event.id in new]
        for event in fresh:
            if worth_recording(event):
                self._record(audit_of(event))
        if not one.done.done():
            one.done.set_result(len(fresh))


def _fail(group: Sequence[_Waiting], problem: CompanionError) -> None:
    for one in group:
        if not one.done.done():
            one.done.set_exception(problem)


def worth_recording(event: BrokerEvent) -> bool:
    """Tell whether it is a refusal that no hook of ours has recorded."""
    if event.kind is EventKind.AUTHORIZED:
        return event.refused and event.source not in _KNOWN_ELSEWHERE
    return event.kind is EventKind.CONNACK and event.refused


def audit_of(event: BrokerEvent) -> Audit:
    """Return the audit record of a refusal by the broker."""
    return Audit(
        at=event.at,
        kind="broker",
        verdict="deny",
        reason=event.reason,
        username=event.username,
        client_id=event.client_id,
        peer_host=event.peer_host,
        action=event.action or ("connect" if event.kind is EventKind.CONNACK else ""),
        topic=event.topic,
        source=f"broker:{event.source}" if event.source else "broker",
    )


class EventsHandler:
    """Answers `POST /emqx/events`; the key was checked before."""

    def __init__(self, intake: EventIntake, metrics: Metrics, *, max_body: int, deadline: float) -> None:
        self._intake = intake
        self._outcomes = metrics.events.outcomes
        self._max_body = max_body
        self._deadline = deadline

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        try:
            async with asyncio.timeout(self._deadline):
                return await self._take(request)
        except TimeoutError:
            return self._later(503, "no answer in time")
        except Full as problem:
            return self._later(429, str(problem))
        except Invalid as problem:
            return self._refuse(400, str(problem))
        except Permanent as problem:
            log.error("events cannot be stored", problem=str(problem))
            return self._refuse(422, str(problem))
        except CompanionError as problem:
            return self._later(503, str(problem))
        except ConnectionError:
            return self._refuse(400, "the connection ended before the body did")
        except Exception as problem:  # noqa: BLE001 - no traceback reaches a caller; what was sent is not repeated in a log
            log.error("events failed", problem=told(problem))
            return self._later(503, type(problem).__name__)

    async def _take(self, request: web.BaseRequest) -> web.Response:
        body = await _read(request, self._max_body)
        if request.method != hdrs.METH_POST:
            return self._refuse(405, "the method is POST")
        if body is None:
            return self._refuse(413, f"at most {self._max_body} bytes; select fewer fields, above all no payload")
        events, ignored = parse(body, int(time.time() * 1000))
        new = await self._intake.take(events) if events else 0
        for outcome, count in (("new", new), ("known", len(events) - new), ("ignored", ignored)):
            self._outcomes.labels(outcome).inc(count)
        return _json(200, {"new": new, "known": len(events) - new, "ignored": ignored})

    def _refuse(self, status: int, problem: str) -> web.Response:
        self._outcomes.labels("malformed").inc()
        log.warning("events refused", status=status, problem=problem)
        return _json(status, {"error": problem})

    def _later(self, status: int, problem: str) -> web.Response:
        self._outcomes.labels("not_taken").inc()
        response = _json(status, {"error": problem})
        response.headers[hdrs.RETRY_AFTER] = "1"
        return response


async def _read(request: web.BaseRequest, most: int) -> bytes | None:
    """Return the body; None for one that is longer. It is read to its end, within limits, so that the answer gets through."""
    body, size = bytearray(), 0
    while size < _DRAINED and (chunk := await request.content.readany()):
        size += len(chunk)
        if size <= most:
            body += chunk
    return bytes(body) if size <= most else None


def _json(status: int, body: object) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), headers=HEADERS)
