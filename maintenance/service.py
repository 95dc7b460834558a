"""Maintenance, wired: what it needs comes in once, here."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from companion.background import background
from companion.core.ports import Store
from companion.job_settings import JobSettings
from companion.leadership import Leadership
from companion.metrics import Metrics
from companion.settings import Settings
from maintenance.archive.target import target_of
from maintenance.broker_source import BrokerSource
from maintenance.catalogue import load_jobs, schedules, served
from maintenance.clockwork import Clockwork
from maintenance.engine import Engine
from maintenance.job import Job
from maintenance.mirroring import LEASE as MIRROR_LEASE
from maintenance.mirroring import LEASE_SECONDS, Mirroring
from maintenance.observer import Observer
from maintenance.revoking import Revoking, opened_api

LEASE: Final = "observer"
_RELEASE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Running maintenance. `asked` is to be called when somebody asked for a run."""

    jobs: Mapping[str, Job]
    schedules: Mapping[str, JobSettings]
    asked: Callable[[], None]
    engine: Engine
    revoked: Callable[[], None]
    """To be called when somebody was revoked."""

    observer: Observer | None = None

    async def trouble(self) -> str | None:
        """Return why no runs can be taken, or nothing can be counted, or None."""
        return self.engine.problem or (None if self.observer is None else self.observer.problem)


@contextlib.asynccontextmanager
async def running_maintenance(settings: Settings, store: Store, metrics: Metrics) -> AsyncIterator[Maintenance]:
    """Run jobs until the block ends; what runs then comes to the end of its batch, and goes on in another process.

    With the observer, count changes as well, or wait for the turn to.

    Raises `Invalid` for settings of jobs that there are not, and for archives in storage whose client is not installed.
    """
    jobs = load_jobs()
    target_of(settings)
    plan, names = schedules(jobs, settings), served(jobs, settings)
    holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    engine = Engine(
        jobs=jobs,
        served=names,
        schedules=plan,
        settings=settings,
        store=store,
        metrics=metrics,
        holder=holder,
    )
    works: list[Callable[[], Coroutine[Any, Any, None]]] = []
    endings: list[Callable[[], Awaitable[None]]] = [lambda: engine.finish(settings.shutdown_deadline)]
    if settings.jobs_mode != "none":
        clockwork = Clockwork({name: plan[name] for name in sorted(names)}, engine.tick)
        works += [engine.run, clockwork.run]
    observer: Observer | None = None
    if settings.observer:
        observer, leadership = _observing(settings, store, metrics, holder)
        works.append(functools.partial(leadership.run, observer.run))
        endings.append(functools.partial(_end_observing, observer, leadership, settings.shutdown_deadline))
    if store.watcher is not None:
        mirroring = Mirroring(store.watcher, Leadership(store.leases, MIRROR_LEASE, holder, LEASE_SECONDS), metrics)
        works.append(mirroring.run)
        endings.append(mirroring.finish)

    async def finish() -> None:
        await asyncio.gather(*(ending() for ending in endings))

    async with opened_api(settings, metrics) as api:
        revoking = Revoking(store, api, settings, metrics, holder)
        works += [revoking.run, revoking.revoker.watch]
        endings.append(revoking.finish)
        async with background(*(work() for work in works), finish=finish):
            yield Maintenance(jobs, plan, engine.wake, engine, revoking.revoker.wake, observer)


def _observing(settings: Settings, store: Store, metrics: Metrics, holder: str) -> tuple[Observer, Leadership]:
    """Return the observer, and how it takes turns with those of other processes."""
    sources = list(store.observed(settings.counting()))
    if settings.emqx_url:
        sources.append(BrokerSource(settings, metrics))
    observer = Observer(
        sources=sources,
        statistics=store.statistics,
        zones=settings.zones(),
        flush_seconds=settings.observer_flush,
        metrics=metrics,
    )
    leadership = Leadership(store.leases, LEASE, holder, settings.observer_lease)
    metrics.leases.held.labels(LEASE).set_function(lambda: leadership.leading)
    return observer, leadership


async def _end_observing(observer: Observer, leadership: Leadership, seconds: float) -> None:
    """Let it flush, and give the lease back, so that the next need not wait for its end."""
    leadership.stop()
    await observer.finish(seconds)
    await leadership.ended(_RELEASE_SECONDS)
