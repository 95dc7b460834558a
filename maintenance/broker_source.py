"""The broker's own numbers as one more source of the observer: a snapshot of EMQX's REST API every minute.

What EMQX counts since its start (`messages.received`, `authentication.failure` …) is counted here by what came to it since the
last snapshot, node by node: `BROKER_COUNT__MESSAGES_RECEIVED` of the owner `broker`. What goes up and down (`connections`,
`sessions` …) is summed, `BROKER_SUM__CONNECTIONS`; divided by `BROKER_COUNT__SNAPSHOTS` that is its average. The last snapshot is
the position, which moves with the counters, so that nothing is counted twice; a node that began anew counts from 0. A broker that
is away is asked again a minute later, and what it counted meanwhile is not lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from companion.core.errors import CompanionError
from companion.core.ports import Seen
from companion.core.stats import MOST, Fact, Subject
from companion.emqx_api import EmqxApi
from companion.metrics import Metrics
from companion.settings import Settings

log = structlog.get_logger("maintenance.broker")

OWNER: Final = "broker"
_GAUGE: Final = ".count"
_IDLE_SECONDS: Final = 0.5

Numbers = Mapping[str, Mapping[str, int]]
"""Of every node, its counters."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the broker says of itself: what only grows, by node, and what goes up and down, of all nodes."""

    counters: Numbers
    gauges: Mapping[str, int]


class _Failed(Exception):
    """There is no snapshot, for this reason."""


class BrokerSource:
    """The port `Observed`; positions are the counters of the last snapshot as JSON."""

    name = "broker"
    lost = 0

    def __init__(self, settings: Settings, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._metrics = metrics
        self._every = settings.emqx_every
        self._snapshots = metrics.stats.snapshots
        self._clock = clock
        self._stack = contextlib.AsyncExitStack()
        self._api: EmqxApi | None = None
        self._last: Numbers | None = None
        self._due = 0.0
        self._problem = ""

    async def open(self, position: str | None) -> str | None:
        """Go on from this snapshot; without one, the first is what the next is compared with."""
        await self.close()
        self._last = None if position is None else msgspec.json.decode(position, type=dict[str, dict[str, int]])
        # Who looks every minute need not ask twice.
        self._api = await self._stack.enter_async_context(EmqxApi.open(self._settings, self._metrics, attempts=1))
        return None

    async def read(self, limit: int) -> Sequence[Seen]:
        """Return a snapshot when it is time for one; else wait a moment."""
        del limit
        if self._clock() < self._due:
            await asyncio.sleep(min(_IDLE_SECONDS, self._due - self._clock()))
            return []
        self._due = self._clock() + self._every
        try:
            snapshot = await self._look()
        except _Failed as problem:
            self._snapshots.labels("failed").inc()
            if str(problem) != self._problem:
                self._problem = str(problem)
                log.warning("no snapshot of the broker", problem=self._problem)
            return []
        self._snapshots.labels("taken").inc()
        self._problem = ""
        amounts = added(self._last, snapshot)
        self._last = snapshot.counters
        fact = Fact(int(time.time() * 1000), (Subject(OWNER),), amounts)
        return [Seen(msgspec.json.encode(snapshot.counters).decode(), fact)]

    async def settled(self, position: str) -> None:
        """Nothing is kept."""

    async def close(self) -> None:
        """Close the connections."""
        self._api = None
        await self._stack.aclose()

    async def _look(self) -> Snapshot:
        return snapshot_of(await self._get("metrics"), await self._get("stats"))

    async def _get(self, what: str) -> bytes:
        if self._api is None:
            raise _Failed("it is closed")
        try:
            return await self._api.look(what)
        except CompanionError as problem:
            raise _Failed(f"{what}: {problem}") from None


def snapshot_of(metrics: bytes, stats: bytes) -> Snapshot:
    """Read both answers. Raises `_Failed` for anything that EMQX does not say."""
    gauges: Counter[str] = Counter()
    for node in _nodes("stats", stats).values():
        gauges.update({name.removesuffix(_GAUGE): value for name, value in node.items() if name.endswith(_GAUGE)})
    return Snapshot(_nodes("metrics", metrics), gauges)


def added(last: Numbers | None, now: Snapshot) -> tuple[tuple[str, int], ...]:
    """Return what this snapshot adds: to counts what is new since the last, to sums what there is; of the first, no counts."""
    counts: Counter[str] = Counter({"SNAPSHOTS": 1})
    for node, counters in now.counters.items():
        before = (last or {}).get(node)
        if before is None:
            continue
        for name, value in counters.items():
            known = before.get(name, 0)
            counts[name] += value - known if value >= known else value
    sums = {_key("SUM", name): value for name, value in now.gauges.items()}
    found = {_key("COUNT", name): value for name, value in counts.items()} | sums
    return tuple((key, value) for key, value in sorted(found.items()) if 0 < value <= MOST)


def _key(kind: str, name: str) -> str:
    return f"BROKER_{kind}__{name}".upper().replace(".", "_")


def _nodes(what: str, body: bytes) -> Numbers:
    try:
        nodes = msgspec.json.decode(body, type=list[dict[str, Any]])
        return {
            str(node["node"]): {name: value for name, value in node.items() if type(value) is int} for node in nodes
        }
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        raise _Failed(f"GET /api/v5/{what}: not what EMQX answers") from None
