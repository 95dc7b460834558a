"""The pipeline: changes from their sources to the broker, in order per entity, and checkpoints that never run ahead.

    sources ──read──▶ one chain per entity ──deliver, all topics of a change──▶ acknowledged ──▶ progress ──▶ checkpoint

The changes of one entity go one after the other, each after every message of the one before it was acknowledged; those of
different entities go side by side, up to a number. What the broker refuses is tried again with back-off, then kept as a dead
letter, so that one bad change does not stop the rest. Changes of one entity that come from two sources go in the order in which
they were read.

It runs under a lease. A process that was stopped and comes back after its lease ran out publishes nothing more; its checkpoints
are refused. What it had sent before is repeated by its successor, from the last checkpoint on and in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from companion.background import background
from companion.core.errors import Fenced, Invalid, Permanent
from companion.core.model import Change
from companion.core.ports import Item, Source
from companion.leadership import Term
from companion.metrics import Metrics
from publishers.delivery import Delivery, Refused
from publishers.feed import Feed
from publishers.messages import Message
from publishers.rendering import Renderer

log = structlog.get_logger("publishers.pipeline")

_READ: Final = 64
_HELD: Final = 100_000
"""How far work goes on behind a change that the broker refuses again and again; each costs a number in memory."""

_WAITING: Final = 20_000
"""Messages taken up and not acknowledged: one entity that is held up by a refusal must not keep all others waiting."""

_LOOK_SECONDS: Final = 0.5
_BACKOFF: Final = (0.1, 10.0)
_WITHOUT_BROKER_SECONDS: Final = 1.0

Entity = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Work:
    feed: Feed
    number: int
    item: Item
    change: Change
    messages: tuple[Message, ...]


class Pipeline:
    """Publishes what the sources hold. `run` ends after `finish` was called and nothing is in work any more."""

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        delivery: Delivery,
        renderer: Renderer,
        metrics: Metrics,
        limit: int,
        attempts: int,
    ) -> None:
        self._sources = sources
        self._delivery = delivery
        self._renderer = renderer
        self._metrics = metrics
        self._limit = limit
        self._attempts = attempts
        self._chains: dict[Entity, deque[_Work]] = {}
        self._waiting = 0
        self._room = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._stopping = False
        self._failed = False

    async def finish(self, seconds: float) -> None:
        """Read no more, and wait up to `seconds` until what is in work is done; without a broker there is little to wait for."""
        self._stopping = True
        self._room.set()
        await _wait(self._ended, seconds if self._delivery.connected else min(seconds, _WITHOUT_BROKER_SECONDS))

    async def run(self, term: Term) -> None:
        """Publish until `finish`, while the lease is ours. A store that is away is waited for.

        Raises `Fenced`, alone or in a group, when another process has claimed a checkpoint.
        """
        self._chains, self._waiting, self._failed = {}, 0, False
        self._ended.clear()
        feeds = [Feed(source, self._metrics) for source in self._sources]
        try:
            async with contextlib.AsyncExitStack() as stack:
                works = [work for feed in feeds for work in (feed.keep_saving(), feed.keep_measuring())]
                await stack.enter_async_context(background(*works))
                chains = await stack.enter_async_context(asyncio.TaskGroup())
                async with asyncio.TaskGroup() as readers:
                    for feed in feeds:
                        readers.create_task(self._follow(feed, term, chains))
        finally:
            for feed in feeds:
                await feed.end()
            self._ended.set()

    async def _follow(self, feed: Feed, term: Term, chains: asyncio.TaskGroup) -> None:
        """Take what is new into work, as far as there is room."""
        await feed.open(term.lease.token)
        while not self._ending:
            for item in await feed.read(_READ):
                if not await self._has_room(feed):
                    return
                await self._begin(feed, item, term, chains)

    async def _has_room(self, feed: Feed) -> bool:
        """Wait until another change may be taken into work; False when none may any more."""
        while (
            len(self._chains) >= self._limit or self._waiting >= _WAITING or feed.held >= _HELD
        ) and not self._ending:
            await _wait(self._room, _LOOK_SECONDS)
            self._room.clear()
        return not self._ending

    @property
    def _ending(self) -> bool:
        # After a failure the group of the chains takes no more tasks, while those who read are cancelled only a moment later.
        return self._stopping or self._failed

    async def _begin(self, feed: Feed, item: Item, term: Term, chains: asyncio.TaskGroup) -> None:
        number = feed.begin(item)
        if item.change is None:
            feed.finish(number)
            return
        try:
            messages = self._renderer.messages(item.change)
        except Invalid as problem:
            await self._bury(feed, item, str(problem))
            feed.finish(number)
            return
        work = _Work(feed, number, item, item.change, messages)
        self._waiting += len(messages)
        entity = item.change.entity
        chain = self._chains.get(entity)
        if chain is not None:
            chain.append(work)
        else:
            self._chains[entity] = deque((work,))
            chains.create_task(self._publish_chain(entity, term))

    async def _publish_chain(self, entity: Entity, term: Term) -> None:
        chain = self._chains[entity]
        while chain:
            try:
                await self._publish(chain[0], term)
            except BaseException:
                self._failed = True
                raise
            self._waiting -= len(chain.popleft().messages)
            self._room.set()
        del self._chains[entity]
        self._room.set()

    async def _publish(self, work: _Work, term: Term) -> None:
        refusals = await self._deliver_all(work.messages, term)
        if refusals:
            await self._bury(work.feed, work.item, "; ".join(refusals))
            work.feed.finish(work.number)
            return
        now = int(time.time() * 1000)
        self._metrics.publishing.published.labels(work.change.op.value).inc()
        self._metrics.publishing.lag.observe(max(0, now - work.change.at) / 1000)
        log.debug("change published", event_id=work.change.event_id, source=work.feed.name, at=now)
        work.feed.finish(work.number, now)

    async def _deliver_all(self, messages: Sequence[Message], term: Term) -> Sequence[str]:
        """Deliver side by side; return what the broker refused for good, as topic and reason. One refusal stops no other."""
        if len(messages) == 1:  # the common case costs no task
            outcomes: Sequence[Refused | None] = [await self._deliver(messages[0], term)]
        else:
            outcomes = await asyncio.gather(*(self._deliver(message, term) for message in messages))
        return [f"{message.topic}: {outcome}" for message, outcome in zip(messages, outcomes, strict=True) if outcome]

    async def _deliver(self, message: Message, term: Term) -> Refused | None:
        """Deliver, again after a refusal; return the last refusal when it is final. Raises `Fenced` when the lease has run out."""
        pause, longest = _BACKOFF
        attempt = 1
        while True:
            if not term.valid:
                raise Fenced(f"the lease {term.lease.name} with fence {term.lease.token} has run out")
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

    async def _bury(self, feed: Feed, item: Item, reason: str) -> None:
        await feed.bury(item, reason)
        self._metrics.publishing.dead.inc()
        if item.change is not None:
            change = item.change
            log.error(
                "change is dead", event_id=change.event_id, db=change.db, collection=change.collection, reason=reason
            )


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
