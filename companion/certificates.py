"""The certificates of our ports while the service runs: looked at now and then and at a reload, changed where they are good.

What cannot be used, half a pair, say, while the other half is being written, changes nothing: the one in force stays, and the log
and a metric tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import structlog

from companion.background import background
from companion.core.errors import Invalid
from companion.logs import told
from companion.metrics import TlsMetrics
from companion.reloading import Commit, Reloading
from companion.settings import Settings
from companion.tls import Certificate, Listener, SwitchedContext, TlsFiles, moment, read_certificate, tls_files

log = structlog.get_logger("companion.certificates")


class Watched:
    """The certificate of one port. Raises `Invalid` when there is none that can be used to begin with.

    `reread` returns the settings as they are now, of which the password of the key is taken. Files that have not changed are not
    told about twice.
    """

    def __init__(
        self,
        files: TlsFiles,
        metrics: TlsMetrics,
        *,
        seconds: float,
        reread: Callable[[], Settings],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.current = read_certificate(files)
        self._files = files
        self._seconds = seconds
        self._reread = reread
        self._now = now
        self._use: Callable[[Certificate], None] | None = None
        self._told = ""
        port = files.listener
        self._ends = metrics.not_after.labels(port)
        self._refused = metrics.refused.labels(port)
        self._outcomes = {outcome: metrics.changes.labels(port, outcome) for outcome in ("done", "refused")}
        self._ends.set(self.current.not_after)
        if not self._good(self.current):
            log.error("certificate not valid now", port=port, **_validity(self.current))

    def tell(self, use: Callable[[Certificate], None]) -> None:
        """Hand every new certificate to whoever listens."""
        self._use = use

    async def prepare(self) -> Commit:
        """Read the files, with the password as the settings have it now. Raises `Invalid`, and nothing changes."""
        try:
            fresh = await asyncio.to_thread(self._password_again)
            certificate = await asyncio.to_thread(self._read, fresh)
        except Invalid as problem:
            self._tell(problem)
            raise

        def commit() -> None:
            self._files = fresh
            self._take(certificate)

        return commit

    async def watch(self) -> None:
        """Look at the files again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                certificate = await asyncio.to_thread(self._read, self._files)
            except Invalid as problem:
                self._tell(problem)
            else:
                self._take(certificate)

    def _password_again(self) -> TlsFiles:
        files, fresh = self._files, tls_files(self._reread(), self._files.listener)
        password = files.password if fresh is None else fresh.password
        return TlsFiles(files.listener, files.cert, files.key, files.client_ca, password)

    def _read(self, files: TlsFiles) -> Certificate:
        try:
            certificate = read_certificate(files)
        except Invalid:
            raise
        except Exception as problem:  # noqa: BLE001 - whatever it is, too many open files say, the old one goes on working
            allowed = f"a certificate that can be read here and now ({told(problem)})"
            raise Invalid(f"{files.listener}_tls_cert", str(files.cert), allowed) from None
        if self._good(self.current) and not self._good(certificate):
            valid = f"from {moment(certificate.not_before)} to {moment(certificate.not_after)}"
            raise Invalid(
                f"{files.listener}_tls_cert", str(files.cert), f"a certificate that is valid now, not {valid}"
            )
        return certificate

    def _good(self, certificate: Certificate) -> bool:
        return certificate.not_before <= self._now() < certificate.not_after

    def _take(self, certificate: Certificate) -> None:
        self._told = ""
        self._refused.set(0)
        if certificate == self.current:
            return
        self.current = certificate
        self._ends.set(certificate.not_after)
        self._outcomes["done"].inc()
        if self._use is not None:
            self._use(certificate)
        log.info("certificate changed", port=self._files.listener, **_validity(certificate))

    def _tell(self, problem: Invalid) -> None:
        self._refused.set(1)
        if str(problem) == self._told:
            return
        self._told = str(problem)
        self._outcomes["refused"].inc()
        log.error(
            "certificate refused: the old one stays",
            port=self._files.listener,
            problem=self._told,
            **_validity(self.current),
        )


def _validity(certificate: Certificate) -> dict[str, str]:
    return {"not_before": moment(certificate.not_before), "not_after": moment(certificate.not_after)}


class Certificates:
    """Those of all ports of this process that have one. Raises `Invalid` when one of them cannot be used to begin with."""

    def __init__(
        self, settings: Settings, listeners: Sequence[Listener], metrics: TlsMetrics, reread: Callable[[], Settings]
    ) -> None:
        found = {one: tls_files(settings, one) for one in listeners}
        self._watched = {
            one: Watched(files, metrics, seconds=settings.tls_poll, reread=reread)
            for one, files in found.items()
            if files is not None
        }

    def of(self, listener: Listener) -> Watched | None:
        """Return that of a port, None without TLS."""
        return self._watched.get(listener)

    def context(self, listener: Listener) -> SwitchedContext | None:
        """Return a context for that port that follows its certificate, None without TLS."""
        watched = self.of(listener)
        if watched is None:
            return None
        context = SwitchedContext(watched.current)
        watched.tell(context.use)
        return context

    def watching(self, reloading: Reloading) -> contextlib.AbstractAsyncContextManager[None]:
        """Look after all of them while the block runs, and at each reload."""
        for one, watched in self._watched.items():
            reloading.add(f"certificate of {one}", watched.prepare)
        return background(*(watched.watch() for watched in self._watched.values()))
