"""The lifecycle of a serving process: what a role needs is entered in order, and left in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from broker_hooks.explain_api import ExplainApi
from broker_hooks.explaining import Explainer, note_lookups
from broker_hooks.one_hop import acl_compiler
from broker_hooks.presence_api import PresenceApi
from broker_hooks.service import running_hooks
from companion.certificates import Certificates, Watched
from companion.core.errors import Invalid
from companion.core.ports import Store
from companion.door import Door
from companion.metrics import Metrics
from companion.operations import Api, Trouble, Workers, make_app, serving
from companion.reloading import ReloadApi, Reloading
from companion.rotation import KEYS, KeyRotation
from companion.settings import Role, Settings
from companion.stores.opening import open_store
from companion.supervising import running_workers
from companion.tls import Listener
from maintenance.jobs_api import JobsApi
from maintenance.revocations_api import RevocationsApi
from maintenance.service import running_maintenance
from maintenance.stats_api import StatsApi
from publishers.changes_api import ChangesApi
from publishers.service import make_router, running_publisher

RULES: Final = "rules"
"""The part of the configuration that is read again from the rule files."""

log = structlog.get_logger("companion.runtime")


@dataclass(frozen=True, slots=True)
class Running:
    """A process at work; ports are the bound ones, `hooks_port` is None without that role."""

    ops_port: int
    hooks_port: int | None
    metrics: Metrics
    store: Store
    reloading: Reloading


@contextlib.asynccontextmanager
async def running(
    settings: Settings, role: Role, workers: int = 1, *, reread: Callable[[], Settings] | None = None
) -> AsyncIterator[Running]:
    """Run the services of `role` until the block ends, then stop them gracefully; the hooks in so many processes.

    With one worker this process has the hooks itself; with more it has everything but them, and looks after the workers.

    First the operations port closes, so that nobody counts on us any more; then the hooks finish what they were asked; then the
    publisher finishes what is in flight and saves its checkpoint; then the store closes.

    `reread` reads the settings again, of which the keys change without a new start. Raises `Invalid` for a port that is taken,
    `CompanionError` when the store cannot be used.
    """
    metrics = Metrics()
    troubles: dict[str, Trouble] = {}
    hooks_port: int | None = None
    problems: Workers | None = None
    reloading = Reloading(metrics)
    reread = reread or (lambda: settings)
    keys = KeyRotation(settings, reread)
    certificates = Certificates(settings, _listeners(role), metrics.tls, reread)
    door = Door(keys.ops, metrics)
    apis: list[Api] = [ReloadApi(reloading, door)]
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        if role in (Role.MAINTENANCE, Role.ALL):
            maintenance = await stack.enter_async_context(running_maintenance(settings, store, metrics))
            troubles["maintenance"] = maintenance.trouble
            apis += [
                JobsApi(
                    jobs=maintenance.jobs,
                    schedules=maintenance.schedules,
                    settings=settings,
                    runs=store.runs,
                    door=door,
                    asked=maintenance.asked,
                ),
                StatsApi(
                    statistics=store.statistics,
                    zones=settings.zones(),
                    door=door,
                ),
                RevocationsApi(
                    revocations=store.revocations,
                    door=door,
                    asked=maintenance.revoked,
                ),
            ]
        if role in (Role.PUBLISHER, Role.ALL):
            publisher = await stack.enter_async_context(running_publisher(settings, store, metrics))
            troubles["publisher"] = publisher.trouble
            apis.append(
                ChangesApi(
                    inbox=store.inbox,
                    router=make_router(settings),
                    door=door,
                    metrics=metrics,
                    max_body=settings.changes_max_body,
                    max_batch=settings.changes_max_batch,
                    taken=publisher.taken,
                )
            )
        if role in (Role.HOOKS, Role.ALL):
            served = await _serve_hooks(
                stack,
                settings,
                store,
                metrics,
                keys=keys,
                certificate=certificates.of("hooks"),
                workers=workers,
                reloading=reloading,
            )
            troubles["hooks"], hooks_port, problems = served.trouble, served.port, served.problems
            apis += [
                ExplainApi(served.explainer, door),
                PresenceApi(store.presence, door),
            ]
        app = make_app(metrics, troubles, store.troubles, problems)
        reloading.add(KEYS, keys.prepare)
        for api in apis:
            api.add_routes(app)
        await stack.enter_async_context(certificates.watching(reloading))
        with _port_taken("ops_port", settings.ops_host, settings.ops_port):
            ops_port = await stack.enter_async_context(serving(app, settings, certificates.context("ops")))
        log.info(
            "started",
            role=role.value,
            ops_port=ops_port,
            **_known(hooks_port=hooks_port, workers=workers if workers > 1 else None),
            store=settings.store,
            **({"data_dir": str(settings.data_dir)} if settings.store == "embedded" else {}),
        )
        yield Running(ops_port, hooks_port, metrics, store, reloading)
        log.info("stopping")
    log.info("stopped")


def _listeners(role: Role) -> Sequence[Listener]:
    return ("hooks", "ops") if role in (Role.HOOKS, Role.ALL) else ("ops",)


@dataclass(frozen=True, slots=True)
class _Served:
    """The hooks at work, in this process or in workers."""

    port: int
    trouble: Trouble
    problems: Workers | None
    explainer: Explainer


async def _serve_hooks(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    store: Store,
    metrics: Metrics,
    *,
    keys: KeyRotation,
    certificate: Watched | None,
    workers: int,
    reloading: Reloading,
) -> _Served:
    with _port_taken("hooks_port", settings.hooks_host, settings.hooks_port):
        lists = acl_compiler(settings)
        if workers > 1:
            first = None if certificate is None else certificate.current
            several = await stack.enter_async_context(running_workers(settings, workers, metrics, keys.hooks(), first))
            keys.tell_hooks(several.use_keys)
            if certificate is not None:
                certificate.tell(several.use_certificate)
            reloading.add(RULES, several.prepare_rules)
            reloading.follow(several.follow)
            store.tell_lookups(note_lookups())
            explainer = Explainer(store, lambda: several.book, compile_acl=lists)
            return _Served(several.port, several.trouble, several.problems, explainer)
        hooks = await stack.enter_async_context(
            running_hooks(
                settings,
                store,
                metrics,
                keys.hooks(),
                certificate=None if certificate is None else certificate.current,
            )
        )
        keys.tell_hooks(hooks.use_keys)
        if certificate is not None and hooks.tls is not None:
            certificate.tell(hooks.tls.use)
        reloading.add(RULES, hooks.prepare_rules)
        explainer = Explainer(store, lambda: hooks.directory.book, hooks.directory, lists)
        return _Served(hooks.port, hooks.trouble, None, explainer)


async def serve(
    settings: Settings, role: Role, workers: int = 1, *, reread: Callable[[], Settings] | None = None
) -> None:
    """Run until SIGTERM or SIGINT; at SIGHUP read again what can be (of the settings with `reread`)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Until there is something to read again, a terminal that goes away ends nothing.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    async with running(settings, role, workers, reread=reread) as service:
        loop.add_signal_handler(signal.SIGHUP, service.reloading.ask)
        await stop.wait()


@contextlib.contextmanager
def _port_taken(name: str, host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise Invalid(
            name, f"{host}:{port}", f"an address and a port that are free here ({problem.strerror or problem})"
        ) from None


def _known(**fields: int | None) -> Mapping[str, int]:
    return {name: value for name, value in fields.items() if value is not None}
