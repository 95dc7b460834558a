"""The hooks, wired: what they need comes in once, here."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from broker_hooks.app import HooksHandler
from broker_hooks.audit import AuditTrail
from broker_hooks.authenticate import CredentialKind, authenticate, recall
from broker_hooks.banning import Banner
from broker_hooks.certificates import CertificateCredential
from broker_hooks.directory import Directory
from broker_hooks.events import EventIntake, EventsHandler
from broker_hooks.explaining import note_lookups
from broker_hooks.flapping import Flapping
from broker_hooks.granting import Granting
from broker_hooks.guard import Guard, Limits
from broker_hooks.long_tokens import LongTokenCredential
from broker_hooks.one_hop import OneHop, acl_compiler
from broker_hooks.password_pool import PasswordPool
from broker_hooks.passwords import PasswordCredential
from broker_hooks.quick import Server
from broker_hooks.recorder import Recorder
from broker_hooks.rehash import Rehasher
from broker_hooks.revoked import Revoked
from broker_hooks.scram import ScramHook
from broker_hooks.shadow import Shadow
from broker_hooks.token_claims import Reading
from broker_hooks.token_keyset import running_keys
from broker_hooks.tokens import TokenCredential
from broker_hooks.uses import LazyUses
from broker_hooks.verified import VerifiedCredentials
from companion.background import background
from companion.core.errors import CompanionError
from companion.core.model import Connect, Decision
from companion.core.ports import Store
from companion.core.rule_sets import RuleBook
from companion.core.scram import ScramKeys
from companion.keys import Keyring, apt_keys, credential_key
from companion.metrics import Metrics
from companion.rule_files import read_rule_book
from companion.settings import Settings
from companion.spool import FOLDER as SPOOL_FOLDER
from companion.spool import Spool
from companion.tls import Certificate, SwitchedContext

_IDLE_SECONDS = 120.0
_HEADER_LINE_BYTES = 8190


@dataclass(frozen=True, slots=True)
class Hooks:
    """Running hooks. `port` is the bound one."""

    port: int
    store: Store
    settings: Settings
    directory: Directory
    use_keys: Callable[[Sequence[str]], None]
    """Lets these be the valid hook keys from now on."""
    tls: SwitchedContext | None = None

    async def prepare_rules(self) -> Callable[[], None]:
        """Read the rule files again and return what puts them into force. Raises `Invalid`, and nothing changes."""
        book = await asyncio.to_thread(read_rule_book, self.settings)
        return lambda: self.directory.use(book)

    async def trouble(self) -> str | None:
        """Return what keeps the hooks from deciding, or None."""
        troubles = await self.store.troubles()
        return next((troubles[name] for name in sorted(self.store.hooks_need) if troubles[name]), None)


@contextlib.asynccontextmanager
async def running_hooks(
    settings: Settings,
    store: Store,
    metrics: Metrics,
    keys: Sequence[str],
    *,
    reuse_port: bool = False,
    book: RuleBook | None = None,
    certificate: Certificate | None = None,
) -> AsyncIterator[Hooks]:
    """Serve the hooks until the block ends; then stop accepting, finish what is in flight, write the last audit records.

    With `reuse_port` other processes may serve on the same port (SO_REUSEPORT): the kernel spreads the connections. With
    `certificate` it is TLS that is spoken. `book` holds the rule sets of the settings' files where they were read already. Raises
    `OSError` when the port is taken, `Invalid` for a rule file that cannot be used. A store that is away stops nothing: until it
    comes all are refused.
    """
    book = book or await asyncio.to_thread(read_rule_book, settings)
    store.tell_lookups(note_lookups(metrics))
    async with contextlib.AsyncExitStack() as stack:
        spool = Spool(settings.data_dir / SPOOL_FOLDER, settings.audit_spool_bytes)
        trail = AuditTrail(store.audits, metrics, spool)
        stack.push_async_callback(trail.close)
        shadow = Shadow(metrics, trail, samples=settings.rules_shadow_samples)
        revoked = Revoked(store.revocations, metrics, seconds=settings.cache_seconds)
        directory = Directory(
            store,
            metrics,
            revoked,
            entries=settings.cache_entries,
            seconds=settings.cache_seconds,
            size=settings.cache_bytes,
            stale=settings.cache_stale,
            # A login looks up twice and checks a password in between.
            patience=settings.hooks_deadline / 3,
            book=book,
            compared=shadow.compare,
            compile_acl=acl_compiler(settings),
        )
        one_hop = OneHop(directory, metrics, seconds=settings.hooks_acl_seconds, patience=settings.hooks_deadline / 3)
        pool = PasswordPool(settings.password_workers, settings.password_waiting, settings.password_deadline, metrics)
        stack.callback(pool.close)
        verified = VerifiedCredentials(
            metrics,
            key=credential_key(settings),
            deadline=settings.password_deadline,
            entries=settings.cache_entries,
            seconds=settings.credential_seconds,
            refused_seconds=settings.credential_refused_seconds,
            shared=store.proofs,
        )
        stack.push_async_callback(verified.close)
        uses = LazyUses(store.uses, settings.last_used_every)
        stack.push_async_callback(_last_words, uses)
        rehasher = Rehasher(
            store.accounts, settings.password_cost, lambda outcome: metrics.credentials.rehashed.labels(outcome).inc()
        )
        stack.callback(rehasher.close)
        granting = Granting(settings.hooks_client_attrs, superusers=settings.hooks_superusers)
        token_keys = await stack.enter_async_context(running_keys(settings, metrics))
        kinds: dict[str, CredentialKind] = {
            "password": PasswordCredential(
                directory,
                pool,
                verified,
                cost=settings.password_cost,
                max_cost=settings.password_max_cost,
                granting=granting,
                rehasher=rehasher if settings.password_rehash else None,
                uses=uses,
            ),
            "apt": LongTokenCredential(directory, store.tokens, keys=apt_keys(settings), granting=granting, uses=uses),
            "certificate": CertificateCredential(directory, granting=granting),
            "token": TokenCredential(
                directory,
                metrics,
                revoked,
                keys=token_keys,
                algorithms=settings.token_algorithms,
                leeway=settings.token_leeway,
                entries=settings.cache_entries,
                seconds=settings.cache_seconds,
                size=settings.cache_bytes,
                reading=_reading(settings),
                issuers=settings.token_issuers,
                audiences=settings.token_audiences,
                found_in=settings.token_from,
                granting=granting,
            ),
        }
        chosen = [kinds[name] for name in settings.hooks_credentials]
        banner = Banner(settings.throttle_ban_after, metrics) if settings.throttle_ban_after else None
        guard = Guard(
            store.counters,
            store.lockouts,
            metrics,
            Limits(
                settings.throttle_failures,
                settings.throttle_address_failures,
                settings.throttle_seconds,
                settings.throttle_longest,
            ),
            keys=keys,
            exempt=settings.throttle_exempt,
            flapping=Flapping(settings.flapping_connects, settings.flapping_user_connects),
            banner=banner,
        )
        await guard.catch_up()

        async def judge(connect: Connect) -> Decision:
            # Asked last: who is revoked while a password is checked is refused too, and nobody learns of it without one.
            return await revoked.judge(connect, await authenticate(chosen, connect))

        def recalled(connect: Connect) -> Decision | None:
            return recall(chosen, connect) if revoked.clears(connect) else None

        intake = EventIntake(store.presence, directory.principal, trail.record)
        keyring = Keyring(keys)
        handler = HooksHandler(
            keyring=keyring,
            recorder=Recorder(metrics, trail, settings.log_decisions, settings.log_sample),
            metrics=metrics,
            authenticate=functools.partial(guard.judge, authenticate=judge),
            authorize=directory.decide,
            max_body=settings.hooks_max_body,
            deadline=settings.hooks_deadline,
            complete=one_hop.complete if settings.hooks_acl else None,
            # A login with a list of rules takes more than a look into memory.
            recall=_nothing if settings.hooks_acl else functools.partial(guard.recall, recall=recalled),
            recall_access=directory.recall,
            events=EventsHandler(intake, metrics, max_body=settings.hooks_max_body, deadline=settings.hooks_deadline),
            # Not one that is changed while we run: the keys of nobody must stay what they are.
            scram=_scram(settings, directory, granting, revoked, settings.credential_key.get_secret_value() or keys[0]),
        )
        works = [
            directory.follow(),
            revoked.run(),
            trail.run(),
            intake.run(),
            guard.follow(),
            uses.run(),
            rehasher.run(),
        ]
        if banner is not None:
            works.append(banner.run(settings))
        await stack.enter_async_context(background(*works))
        # A query may be as long as a body: with `method = get` it is the body.
        server = Server(
            handler,
            handler.heads,
            handler.at_once,
            _IDLE_SECONDS,
            # Who hangs up is not worked for: what waits for a thread leaves the queue.
            handler_cancellation=True,
            access_log=None,
            lingering_time=0,
            auto_decompress=False,
            max_line_size=_HEADER_LINE_BYTES + settings.hooks_max_body,
            max_field_size=_HEADER_LINE_BYTES,
        )
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=settings.shutdown_deadline)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        tls = None if certificate is None else SwitchedContext(certificate)
        site = web.TCPSite(
            runner,
            settings.hooks_host,
            settings.hooks_port,
            backlog=1024,
            reuse_address=True,
            reuse_port=reuse_port or None,
            ssl_context=tls,
        )
        await site.start()
        await stack.enter_async_context(background(server.sweep()))

        def use_keys(keys: Sequence[str]) -> None:
            keyring.use(keys)
            handler.heads.clear()
            guard.use(keys)

        yield Hooks(runner.addresses[0][1], store, settings, directory, use_keys, tls)


def _nothing(_: Connect) -> None:
    return None


def _scram(
    settings: Settings, directory: Directory, granting: Granting, revoked: Revoked, key: str
) -> Callable[[Connect], Awaitable[tuple[Decision, ScramKeys | None]]] | None:
    if settings.scram_algorithm == "none":
        return None
    algorithm, iterations = settings.scram_algorithm, settings.scram_iterations
    hook = ScramHook(
        directory, key=key, algorithm=algorithm, iterations=iterations, granting=granting, judge=revoked.judge
    )
    return hook.decide


def _reading(settings: Settings) -> Reading:
    return Reading(
        profiles=settings.token_profiles,
        principal=settings.token_principal,
        acl=settings.token_acl,
        superuser=settings.token_superuser,
        attrs=settings.token_client_attrs,
        required=settings.claim_tests("token_required"),
        forbidden=settings.claim_tests("token_forbidden"),
    )


async def _last_words(uses: LazyUses) -> None:
    with contextlib.suppress(CompanionError):
        await uses.flush()
