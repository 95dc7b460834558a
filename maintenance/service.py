"""Maintenance, wired: what it needs comes in once, here."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from companion.background import background
from companion.core.ports import Store, Watcher
from companion.job_settings import JobSettings
from companion.leadership import Leadership
from companion.metrics import Metrics
from companion.settings import Settings
from maintenance.broker_source import BrokerSource
from maintenance.catalogue import load_jobs, schedules, served
from maintenance.clockwork import Clockwork
from maintenance.engine import Engine
from maintenance.job import Job
from maintenance.mirroring import LEASE as MIRROR_LEASE
from maintenance.mirroring import LEASE_SECONDS, Mirroring
from maintenance.observer import Observer

LEASE: Final = "observer"
_RELEASE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Running maintenance. `asked` is to be called when somebody asked for a run."""

    jobs: Mapping[str, Job]
    schedules: Mapping[str, JobSettings]
    asked: Callable[[], None]
    engine: Engine
    observer: Observer | None = None

    async def trouble(self) -> str | None:
        """Return why no runs can be taken, or nothing can be counted, or None."""
        return self.engine.problem or (None if self.observer is None else self.observer.problem)


@contextlib.asynccontextmanager
async def running_maintenance(settings: Settings, store: Store, metrics: Metrics) -> AsyncIterator[Maintenance]:
    """Run jobs until the block ends; what runs then comes to the end of its batch, and goes on in another process.

    With the observer, count changes as well, or wait for the turn to.

    Raises `Invalid` for settings of jobs that there are not.
    """
    jobs = load_jobs()
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
    clockwork = Clockwork({name: plan[name] for name in sorted(names)}, engine.tick)
    async with contextlib.AsyncExitStack() as stack:
        observer = None
        if settings.observer:
            observer = await stack.enter_async_context(_observing(settings, store, metrics, holder))
        if store.watcher is not None:
            await stack.enter_async_context(_mirroring(store.watcher, store, metrics, holder))
        works = [] if settings.jobs_mode == "none" else [engine.run(), clockwork.run()]
        await stack.enter_async_context(background(*works, finish=lambda: engine.finish(settings.shutdown_deadline)))
        yield Maintenance(jobs, plan, engine.wake, engine, observer)


@contextlib.asynccontextmanager
async def _observing(settings: Settings, store: Store, metrics: Metrics, holder: str) -> AsyncIterator[Observer]:
    """Count, or wait for the turn to, until the block ends; then flush, and give the lease back."""
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
    metrics.lease_held.labels(LEASE).set_function(lambda: leadership.leading)

    async def finish() -> None:
        leadership.stop()
        await observer.finish(settings.shutdown_deadline)
        await leadership.ended(_RELEASE_SECONDS)

    async with background(leadership.run(observer.run), finish=finish):
        yield observer


@contextlib.asynccontextmanager
async def _mirroring(watcher: Watcher, store: Store, metrics: Metrics, holder: str) -> AsyncIterator[None]:
    """Keep the mirror, or wait for the turn to, until the block ends."""
    mirroring = Mirroring(watcher, Leadership(store.leases, MIRROR_LEASE, holder, LEASE_SECONDS), metrics)
    async with background(mirroring.run(), finish=mirroring.finish):
        yield
