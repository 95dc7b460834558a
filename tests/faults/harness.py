"""Posters, the service, a broker and a subscriber, all real; the faults that can be done to them; and the verdict.

    posters ──HTTP──▶ service (a process) ──MQTT──▶ mosquitto (a process) ──MQTT──▶ listener

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
from typing import Final

import aiohttp

from tests.faults.books import Books
from tests.faults.broker import MortalBroker
from tests.faults.ledger import Verdict, judge
from tests.faults.listener import Listener, listening
from tests.faults.poster import Poster
from tests.faults.service import Service
from tests.faults.workload import Lane, planned
from tests.support.waiting import wait_until

_LEAD: Final = 1000
"""How many changes, at most a tenth of all, may be taken and not settled: posters go on through the whole run, always ahead."""

_UNHEARD: Final = 0.02
_LOOK_SECONDS: Final = 0.02
_PATIENCE: Final = 90.0
_LAST: Final = 999
"""The index of an entity that no workload has: its one change is the last message of a run."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault: what it was, when it began (Unix milliseconds), how many changes were taken by then."""

    fault: str
    at: int
    taken: int


class House:
    """One run. Every fault method returns when the fault is over and everything runs again."""

    def __init__(
        self, service: Service, broker: MortalBroker, listener: Listener, poster: Poster, lanes: Sequence[Lane]
    ) -> None:
        self.service = service
        self.broker = broker
        self.listener = listener
        self.poster = poster
        self.books = Books(service.data_dir)
        self.hits: list[Hit] = []
        self.settled = 0
        self._lanes = lanes
        self._planned = sum(len(lane) for lane in lanes)
        self._lead = min(_LEAD, self._planned // 10)
        self._began = time.monotonic()

    # The flow of changes.

    @contextlib.asynccontextmanager
    async def posting(self) -> AsyncIterator[None]:
        """Post everything while the block runs, no longer."""
        works = [self._look(), *(self.poster.post_lane(lane, self._admitted) for lane in self._lanes)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
            yield
            for task in tasks:
                task.cancel()

    async def _admitted(self) -> None:
        while len(self.poster.taken) - self.settled >= self._lead:  # noqa: ASYNC110 - `settled` is asked for, nobody tells
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        """Keep `settled` current while the service runs; a file that a crash left behind is the service's to recover."""
        while True:
            if self.service.up:
                self.settled = self.books.settled()
            await asyncio.sleep(_LOOK_SECONDS)

    async def reach(self, share: float) -> None:
        """Return when this share of the changes is settled, and others wait; for a share of 1, when all are."""
        goal = share * self._planned

        def reached() -> bool:
            return self.settled >= goal and (share >= 1 or len(self.poster.taken) > self.settled)

        await wait_until(reached, _PATIENCE, f"{goal:g} changes are settled")

    # Faults.

    def hit(self, fault: str) -> None:
        """Note that a fault begins now."""
        self.hits.append(Hit(fault, int(time.time() * 1000), len(self.poster.taken)))

    async def kill_service(self) -> None:
        """Kill the service with `kill -9` and start it again."""
        self.hit("service killed")
        await self.service.kill()
        await self.service.start()

    async def terminate_service(self) -> None:
        """End the service with SIGTERM and start it again."""
        self.hit("service terminated")
        await self.end_service()
        await self.service.start()

    async def end_service(self) -> None:
        """End the service with SIGTERM; fail unless it exits 0, with a checkpoint before the first change that is not settled."""
        assert await self.service.terminate() == 0
        unsettled = self.books.first_unsettled()
        assert unsettled is None or self.books.checkpoint() < unsettled

    async def freeze_service(self, seconds: float) -> None:
        """Freeze the service for a while; the posters get no answer meanwhile."""
        self.hit("service frozen")
        self.service.freeze()
        await asyncio.sleep(seconds)
        self.service.thaw()

    async def restart_broker(self, seconds: float = 0.0) -> None:
        """Stop the broker cleanly and start it after a while; it saves its sessions and queues."""
        self.hit("broker stopped")
        await self.broker.stop()
        await asyncio.sleep(seconds)
        await self.broker.start()

    async def kill_broker(self, seconds: float = 0.0) -> None:
        """Kill the broker with `kill -9` and start it after a while, but not before the service has noticed.

        So every acknowledgement of the killed one is noted with a time before the start of the next.
        """
        self.hit("broker killed")
        await self.broker.kill()
        await self.service.noticed_the_end()
        await asyncio.sleep(seconds)
        await self.broker.start()

    async def freeze_broker(self, seconds: float) -> int:
        """Freeze the broker for a while; return how many messages waited for their acknowledgement at the end of it."""
        self.hit("broker frozen")
        self.broker.freeze()
        await asyncio.sleep(seconds)
        waiting = await self.service.metric("companion_messages_in_flight")
        self.broker.thaw()
        return int(waiting)

    @contextlib.asynccontextmanager
    async def unheard(self) -> AsyncIterator[None]:
        """Keep the subscriber away from a little before the block to its end, so that the broker has something queued."""
        await self.listener.leave()
        await self.reach(self.settled / self._planned + _UNHEARD)
        yield
        await self.listener.come()

    async def kill_service_without_broker(self) -> None:
        """Kill the service while the broker is down; the service is back first."""
        self.hit("broker stopped, service killed")
        await self.broker.stop()
        await self.service.kill()
        await self.service.start()
        await self.broker.start()

    async def terminate_service_unanswered(self) -> None:
        """End the service with SIGTERM while the broker is frozen: it gives up after its deadline, and repeats in its next life."""
        self.hit("broker frozen, service terminated")
        self.broker.freeze()
        await self.end_service()
        self.broker.thaw()
        await self.service.start()

    # The end.

    async def settle(self) -> None:
        """Return when every change is settled, and every message has arrived that ever will; then the service is ended."""
        await wait_until(lambda: len(self.poster.taken) == self._planned, _PATIENCE, "everything is taken")
        await self.reach(1)
        # A subscriber's queue is first in, first out: behind this message there is nothing.
        last = planned(_LAST, 1)
        await self.poster.post([last])
        await wait_until(lambda: last.topics[0] in self.listener.topics, _PATIENCE, "the last message arrives")
        await self.end_service()

    def verdict(self) -> Verdict:
        """Judge what has arrived by now."""
        return judge(self.poster.taken, self.listener.arrivals(), self.books.records(), self.broker.lives)

    def check_hits(self) -> None:
        """Fail unless every fault hit in the middle of the flow, and none was answered with an unforeseen error."""
        times = [one.acknowledged_at for one in self.books.records().values() if one.acknowledged_at is not None]
        waiting = []
        for hit in self.hits:
            acknowledged = sum(at <= hit.at for at in times)
            assert 0 < acknowledged < len(times), (hit, acknowledged)
            assert hit.taken < self._planned, (hit, acknowledged)
            waiting.append(hit.taken - acknowledged)
        # A quick service may have caught up with the posters once in a while, but not always.
        assert sum(one > 0 for one in waiting) >= len(waiting) / 2, waiting
        assert "Traceback" not in self.service.log

    async def finish(self) -> Verdict:
        """Settle, check that the faults proved something, and judge."""
        await self.settle()
        self.check_hits()
        return self.verdict()

    def summary(self, name: str, verdict: Verdict) -> str:
        """Return one line about the run."""
        faults = ", ".join(f"{hit.fault} at {hit.taken}" for hit in self.hits)
        return (
            f"{name}: changes={self._planned} messages={self.listener.count} seconds={time.monotonic() - self._began:.1f} "
            f"repeated_batches={self.poster.repeated_batches} dead={verdict.dead} faults=[{faults}] {verdict}"
        )


@contextlib.asynccontextmanager
async def house(
    folder: Path, lanes: Sequence[Lane], broker: MortalBroker | None = None, **settings: object
) -> AsyncIterator[House]:
    """Start everything, and post while the block runs; nothing is left running after it. `settings` are the service's."""
    async with aiohttp.ClientSession() as http, broker or MortalBroker() as running_broker:
        service = Service(folder, running_broker.port, http, **settings)
        try:
            await service.start()
            async with listening(running_broker.port) as listener:
                await running_broker.save()  # the subscription survives whatever comes
                run = House(service, running_broker, listener, Poster(service.url, http), lanes)
                async with run.posting():
                    yield run
        finally:
            if service.running:
                await service.kill()
