"""Posters, the service, a broker and a subscriber, all real; the faults that can be done to them; and the verdict.

    posters ──HTTP──▶ service (a process) ──MQTT──▶ mosquitto (a process) ──MQTT──▶ listener

On the production profile the service has a Redis and a MongoDB, processes as well, and half of the lanes take the other way:

    writer ──▶ MongoDB ──change stream──▶ service

A run proves something only if its faults hit while changes were on their way. Each fault is noted, and `finish` checks for every
one that changes were acknowledged before it and that posting was not over, and that changes waited at the moment of the most.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.faults.books import Books, EmbeddedBooks
from tests.faults.broker import MortalBroker
from tests.faults.flow import PATIENCE, Flow
from tests.faults.ledger import Verdict, judge
from tests.faults.listener import Listener, listening
from tests.faults.poster import Poster
from tests.faults.servers import Profile, Servers, production
from tests.faults.service import Service
from tests.faults.workload import Lane, Planned, planned
from tests.faults.writer import Writer
from tests.support.waiting import wait_until

_UNHEARD: Final = 0.02
_LAST: Final = 999
"""The index of an entity that no workload has: its one change is the last message of a run."""

LEASE: Final = 2.0
"""In seconds; a service that was killed is followed after that."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault: what it was, when it began (Unix milliseconds), how many changes were taken by then."""

    fault: str
    at: int
    taken: int


class House:
    """One run. Every fault method returns when the fault is over and everything runs again."""

    def __init__(
        self,
        *,
        service: Service,
        broker: MortalBroker,
        listener: Listener,
        books: Books,
        flow: Flow,
        servers: Servers | None,
    ) -> None:
        self.service = service
        self.broker = broker
        self.listener = listener
        self.books = books
        self.flow = flow
        self.hits: list[Hit] = []
        self._servers = servers
        self._began = time.monotonic()

    @property
    def servers(self) -> Servers:
        """The servers of the production profile."""
        assert self._servers is not None, "the embedded profile has no servers"
        return self._servers

    async def reach(self, share: float) -> None:
        """Return when this share of the changes is settled, and others wait; for a share of 1, when all are."""
        await self.flow.reach(share)

    # Faults.

    async def hit(self, fault: str) -> None:
        """Note that a fault begins now.

        A publisher of the production profile is quicker than the stand-in for MongoDB: at every other fault a broker that stands
        still until then makes changes wait.
        """
        dammed = self._servers is not None and len(self.hits) % 2 == 0
        if dammed:
            self.broker.freeze()
            await self.flow.rest()
        self.hits.append(Hit(fault, int(time.time() * 1000), self.flow.taken))
        if dammed:
            self.broker.thaw()

    async def kill_service(self) -> None:
        """Kill the service with `kill -9` and start it again."""
        await self.hit("service killed")
        await self.service.kill()
        await self.service.start()

    async def terminate_service(self) -> None:
        """End the service with SIGTERM and start it again."""
        await self.hit("service terminated")
        await self.end_service()
        await self.service.start()

    async def end_service(self) -> None:
        """End the service with SIGTERM; fail unless it exits 0, with checkpoints before the first change that is not settled."""
        assert await self.service.terminate() == 0
        for mark in await self.books.marks():
            assert mark.first_unsettled is None or mark.checkpoint < mark.first_unsettled, mark

    async def freeze_service(self, seconds: float) -> None:
        """Freeze the service for a while; the posters get no answer meanwhile."""
        await self.hit("service frozen")
        self.service.freeze()
        await asyncio.sleep(seconds)
        self.service.thaw()

    async def restart_broker(self, seconds: float = 0.0) -> None:
        """Stop the broker cleanly and start it after a while; it saves its sessions and queues."""
        await self.hit("broker stopped")
        await self.broker.stop()
        await asyncio.sleep(seconds)
        await self.broker.start()

    async def kill_broker(self, seconds: float = 0.0) -> None:
        """Kill the broker with `kill -9` and start it after a while, but not before the service has noticed.

        So every acknowledgement of the killed one is noted with a time before the start of the next.
        """
        await self.hit("broker killed")
        await self.broker.kill()
        await self.service.noticed_the_end()
        await asyncio.sleep(seconds)
        await self.broker.start()

    async def freeze_broker(self, seconds: float) -> int:
        """Freeze the broker for a while; return how many messages waited for their acknowledgement at the end of it."""
        await self.hit("broker frozen")
        self.broker.freeze()
        await asyncio.sleep(seconds)
        waiting = await self.service.metric("companion_messages_in_flight")
        self.broker.thaw()
        return int(waiting)

    @contextlib.asynccontextmanager
    async def unheard(self) -> AsyncIterator[None]:
        """Keep the subscriber away from a little before the block to its end, so that the broker has something queued."""
        await self.listener.leave()
        await self.reach(self.flow.settled / self.flow.planned + _UNHEARD)
        yield
        await self.listener.come()

    async def kill_service_without_broker(self) -> None:
        """Kill the service while the broker is down; the service is back first."""
        await self.hit("broker stopped, service killed")
        await self.broker.stop()
        await self.service.kill()
        await self.service.start()
        await self.broker.start()

    async def terminate_service_unanswered(self) -> None:
        """End the service with SIGTERM while the broker is frozen: it gives up after its deadline, and repeats in its next life."""
        await self.hit("broker frozen, service terminated")
        self.broker.freeze()
        await self.end_service()
        self.broker.thaw()
        await self.service.start()

    # The end.

    async def settle(self) -> None:
        """Return when every change is settled, and every message has arrived that ever will; then the service is ended."""
        await self.flow.end()
        # A subscriber's queue is first in, first out: behind this message there is nothing.
        last = planned(_LAST, 1)
        await self.flow.poster.post([last])
        await wait_until(lambda: last.topics[0] in self.listener.topics, PATIENCE, "the last message arrives")
        await self.end_service()

    async def named(self, changes: Sequence[Planned]) -> Sequence[Planned]:
        """Return the changes, of whatever way, with the event ids under which they arrive."""
        posted = [change for change in changes if change in self.flow.poster.taken]
        return [*posted, *await self.books.named([change for change in changes if change not in posted])]

    async def verdict(self) -> Verdict:
        """Judge what has arrived by now."""
        written = await self.books.named(self.flow.writer.taken if self.flow.writer else ())
        records = await self.books.records()
        return judge([*self.flow.poster.taken, *written], self.listener.arrivals(), records, self.broker.lives)

    async def check_hits(self) -> None:
        """Fail unless every fault hit in the middle of the flow, and none was answered with an unforeseen error."""
        records = await self.books.records()
        times = [one.acknowledged_at for one in records.values() if one.acknowledged_at is not None]
        waiting = []
        for hit in self.hits:
            acknowledged = sum(at <= hit.at for at in times)
            assert 0 < acknowledged < len(times), (hit, acknowledged)
            assert hit.taken < self.flow.planned, (hit, acknowledged)
            waiting.append(hit.taken - acknowledged)
        # A quick service may have caught up with the posters once in a while, but not always.
        assert sum(one > 0 for one in waiting) >= len(waiting) / 2, waiting
        for sign in ("Traceback", '"raised":'):
            assert sign not in self.service.log, next(line for line in self.service.log.splitlines() if sign in line)

    async def finish(self) -> Verdict:
        """Settle, check that the faults proved something, and judge."""
        await self.settle()
        await self.check_hits()
        return await self.verdict()

    def summary(self, name: str, verdict: Verdict) -> str:
        """Return one line about the run."""
        faults = ", ".join(f"{hit.fault} at {hit.taken}" for hit in self.hits)
        return (
            f"{name}: changes={self.flow.planned} messages={self.listener.count} seconds={time.monotonic() - self._began:.1f} "
            f"repeated={self.flow.repeated} dead={verdict.dead} faults=[{faults}] {verdict}"
        )


@contextlib.asynccontextmanager
async def house(
    folder: Path,
    lanes: Sequence[Lane],
    broker: MortalBroker | None = None,
    *,
    profile: Profile = "embedded",
    **settings: object,
) -> AsyncIterator[House]:
    """Start everything, and post while the block runs; nothing is left running after it. `settings` are the service's."""
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        servers = await stack.enter_async_context(production(folder)) if profile == "production" else None
        running_broker = await stack.enter_async_context(broker or MortalBroker())
        own: dict[str, Any] = {"publisher_lease": LEASE, **(servers.settings if servers else {})}
        service = Service(folder, running_broker.port, http, **(own | settings))
        stack.push_async_callback(_end, service)
        await service.start()
        books = servers.books(service.log_file) if servers else EmbeddedBooks(service.data_dir)
        await books.ready()
        listener = await stack.enter_async_context(listening(running_broker.port))
        await running_broker.save()  # the subscription survives whatever comes
        writer = Writer(servers.mongo_client) if servers else None
        flow = Flow(service, books, Poster(service.url, http), writer, lanes)
        run = House(service=service, broker=running_broker, listener=listener, books=books, flow=flow, servers=servers)
        async with flow.running():
            yield run


async def _end(service: Service) -> None:
    if service.running:
        await service.kill()
