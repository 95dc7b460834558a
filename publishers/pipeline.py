"""The pipeline: changes from the inbox to the broker, in order per entity, and a checkpoint that never runs ahead.

    inbox ──read──▶ one chain per entity ──deliver, all topics of a change──▶ acknowledged ──▶ progress ──▶ checkpoint

The changes of one entity go one after the other, each after every message of the one before it was acknowledged; those of
different entities go side by side, up to a number. What the broker refuses is tried again with back-off, then kept as a dead
letter, so that one bad change does not stop the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from companion.background import background
from companion.core.errors import CompanionError, Invalid, Permanent
from companion.core.model import Change
from companion.core.ports import Checkpoints, Inbox, Received
from companion.metrics import Metrics
from publishers.delivery import Delivery, Refused
from publishers.messages import Message
from publishers.progress import Progress
from publishers.rendering import Renderer

log = structlog.get_logger("publishers.pipeline")

CHECKPOINT: Final = "publisher"

_READ: Final = 64
_HELD: Final = 100_000
_WAITING: Final = 20_000
"""Messages taken up and not acknowledged: one entity that is held up by a refusal must not keep all others waiting."""

"""How far work goes on behind a change that the broker refuses again and again; each costs a number in memory."""

_IDLE_SECONDS: Final = 0.5
_SAVE_SECONDS: Final = 0.05
_BACKOFF: Final = (0.1, 10.0)
_GAUGE_SECONDS: Final = 5.0
_WITHOUT_BROKER_SECONDS: Final = 1.0

T = TypeVar("T")
Entity = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Work:
    position: int
    change: Change
    messages: tuple[Message, ...]


class Pipeline:
    """Publishes what the inbox holds. `run` ends after `finish` was called and nothing is in work any more."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        checkpoints: Checkpoints,
        delivery: Delivery,
        renderer: Renderer,
        metrics: Metrics,
        limit: int,
        attempts: int,
    ) -> None:
        self._inbox = inbox
        self._checkpoints = checkpoints
        self._delivery = delivery
        self._renderer = renderer
        self._metrics = metrics
        self._limit = limit
        self._attempts = attempts
        self._chains: dict[Entity, deque[_Work]] = {}
        self._progress = Progress(0)
        self._saved = 0
        self._acknowledged: list[tuple[int, int]] = []
        self._waiting = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Tell that the inbox has something new."""
        self._news.set()

    async def finish(self, seconds: float) -> None:
        """Read no more, and wait up to `seconds` until what is in work is done; without a broker there is little to wait for."""
        self._stopping = True
        self._news.set()
        self._room.set()
        await self._wait(self._ended, seconds if self._delivery.connected else min(seconds, _WITHOUT_BROKER_SECONDS))

    async def run(self) -> None:
        """Publish until `finish`. A store that is away is waited for."""
        try:
            position = await self._patiently(self._start)
            async with background(self._keep_saving(), self._keep_measuring()), asyncio.TaskGroup() as chains:
                while not self._stopping:
                    position = await self._advance(position, chains)
        finally:
            if self._progress.open:
                log.warning(
                    "stopped before all was published: the rest follows after the next start",
                    changes=self._progress.open,
                )
            with contextlib.suppress(CompanionError):
                await self.save()
            self._ended.set()

    async def _advance(self, position: int, chains: asyncio.TaskGroup) -> int:
        """Take what is new behind `position` into work and return the new position."""
        received = await self._patiently(functools.partial(self._inbox.read, position, _READ))
        for item in received:
            if not await self._has_room():
                break
            await self._begin(item, chains)
            position = item.position
        if not received:
            await self._wait(self._news, _IDLE_SECONDS)
        return position

    async def save(self) -> None:
        """Write the acknowledgements and the checkpoint; raises `Transient` when the store is away."""
        acknowledged, self._acknowledged = self._acknowledged, []
        position = self._progress.position
        try:
            if acknowledged:
                await self._inbox.acknowledge(acknowledged)
            if position > self._saved:
                await self._checkpoints.save(CHECKPOINT, position)
        except BaseException:
            self._acknowledged[:0] = acknowledged
            raise
        self._saved = position
        self._metrics.checkpoint.set(position)

    async def _start(self) -> int:
        self._saved = await self._checkpoints.load(CHECKPOINT)
        self._progress = Progress(self._saved)
        self._metrics.checkpoint.set(self._saved)
        return self._saved

    async def _has_room(self) -> bool:
        """Wait until another change may be taken into work; False when we are stopping."""
        while (
            len(self._chains) >= self._limit or self._waiting >= _WAITING or self._progress.held >= _HELD
        ) and not self._stopping:
            await self._wait(self._room, _IDLE_SECONDS)
        return not self._stopping

    async def _begin(self, item: Received, chains: asyncio.TaskGroup) -> None:
        self._progress.begin(item.position)
        try:
            messages = self._renderer.messages(item.change)
        except Invalid as problem:
            await self._bury(item.position, item.change, str(problem))
            self._finish(item.position)
            return
        work = _Work(item.position, item.change, messages)
        self._waiting += len(messages)
        chain = self._chains.get(item.change.entity)
        if chain is not None:
            chain.append(work)
        else:
            self._chains[item.change.entity] = deque((work,))
            chains.create_task(self._publish_chain(item.change.entity))

    async def _publish_chain(self, entity: Entity) -> None:
        chain = self._chains[entity]
        while chain:
            await self._publish(chain[0])
            self._waiting -= len(chain.popleft().messages)
            self._room.set()
        del self._chains[entity]
        self._room.set()

    async def _publish(self, work: _Work) -> None:
        refusals = await self._deliver_all(work.messages)
        if refusals:
            await self._bury(work.position, work.change, "; ".join(refusals))
        else:
            now = int(time.time() * 1000)
            self._acknowledged.append((work.position, now))
            self._metrics.changes_published.labels(work.change.op.value).inc()
            self._metrics.change_lag.observe(max(0, now - work.change.at) / 1000)
        self._finish(work.position)

    async def _deliver_all(self, messages: Sequence[Message]) -> Sequence[str]:
        """Deliver side by side; return what the broker refused for good, as topic and reason. One refusal stops no other."""
        if len(messages) == 1:  # the common case costs no task
            outcomes: Sequence[Refused | None] = [await self._deliver(messages[0])]
        else:
            outcomes = await asyncio.gather(*(self._deliver(message) for message in messages))
        return [f"{message.topic}: {outcome}" for message, outcome in zip(messages, outcomes, strict=True) if outcome]

    async def _deliver(self, message: Message) -> Refused | None:
        """Deliver, again after a refusal; return the last refusal when it is final."""
        pause, longest = _BACKOFF
        attempt = 1
        while True:
            try:
                await self._delivery.deliver(message)
            except Refused as problem:
                if attempt == self._attempts or isinstance(problem, Permanent):
                    return problem
                log.warning("message refused", topic=message.topic, attempt=attempt, problem=str(problem))
            else:
                return None
            attempt += 1
            await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing
            pause = min(pause * 2, longest)

    async def _bury(self, position: int, change: Change, reason: str) -> None:
        await self._patiently(lambda: self._inbox.bury(position, reason))
        self._metrics.changes_dead.inc()
        log.error("change is dead", event_id=change.event_id, db=change.db, collection=change.collection, reason=reason)

    def _finish(self, position: int) -> None:
        self._progress.finish(position)
        self._room.set()

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        """Wait for the event, but look again after a while: another process may have filled the inbox."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        event.clear()

    @staticmethod
    async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
        """Call the store again and again until it answers; only the first failure in a row is logged."""
        pause, longest = _BACKOFF
        failed = False
        while True:
            try:
                return await call()
            except CompanionError as problem:
                if not failed:
                    log.warning("store away, publishing waits", problem=str(problem))
                failed = True
                await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing
                pause = min(pause * 2, longest)

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            if self._acknowledged or self._progress.position > self._saved:
                await self._patiently(self.save)

    async def _keep_measuring(self) -> None:
        while True:
            self._metrics.backlog.set(await self._patiently(lambda: self._inbox.backlog(self._saved)))
            await asyncio.sleep(_GAUGE_SECONDS)
