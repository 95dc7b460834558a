"""TLS of our own ports: a certificate with its key as one value, and a context that takes another one while connections run."""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cryptography import x509

from companion.core.errors import Invalid
from companion.settings import Settings

Listener = Literal["hooks", "ops"]

_LONGEST: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the certificate of a port stands. `client_ca`: whose certificates callers must present, None: they need none."""

    listener: Listener
    cert: Path
    key: Path
    client_ca: Path | None
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was read there, as it was: a process that gets it needs no files. Times are Unix seconds."""

    cert: bytes = field(repr=False)
    key: bytes = field(repr=False)
    password: str = field(repr=False)
    client_ca: bytes | None = field(repr=False)
    not_before: int
    not_after: int


def tls_files(settings: Settings, listener: Listener) -> TlsFiles | None:
    """Return where the certificate of this port stands, None without TLS."""
    cert, key, client_ca, password = (
        getattr(settings, f"{listener}_tls_{name}") for name in ("cert", "key", "client_ca", "key_password")
    )
    return None if cert is None else TlsFiles(listener, cert, key, client_ca, password.get_secret_value())


def read_certificate(files: TlsFiles) -> Certificate:
    """Read the files, each once, and check that they go together.

    Raises `Invalid` that names the setting of the file that is wrong.
    """
    cert = _content(f"{files.listener}_tls_cert", files.cert)
    key = _content(f"{files.listener}_tls_key", files.key)
    ca = None if files.client_ca is None else _content(f"{files.listener}_tls_client_ca", files.client_ca)
    try:
        first = x509.load_pem_x509_certificates(cert)[0]
        begins, ends = int(first.not_valid_before_utc.timestamp()), int(first.not_valid_after_utc.timestamp())
    except ValueError:
        raise Invalid(f"{files.listener}_tls_cert", str(files.cert), "a file of certificates in PEM") from None
    certificate = Certificate(cert, key, files.password, ca, begins, ends)
    try:
        _context(certificate)
    except _CaProblem:
        raise Invalid(
            f"{files.listener}_tls_client_ca", str(files.client_ca), "a file of CA certificates in PEM"
        ) from None
    except (ssl.SSLError, ValueError):
        allowed = f"the key (PEM) of the certificate in {files.cert}, with its password if it is encrypted"
        raise Invalid(f"{files.listener}_tls_key", str(files.key), allowed) from None
    return certificate


class SwitchedContext(ssl.SSLContext):
    """A context for a server that gives each new connection the certificate of the moment; those that there are keep theirs.

    asyncio and uvloop ask the context of a server for nothing but `wrap_bio`, once for each connection. Changing one context in
    place instead could take no client CA out of it, and would leave it half changed after an error.
    """

    def __new__(cls, _certificate: Certificate) -> SwitchedContext:  # noqa: PYI034 - what `ssl` itself returns
        """Make the context that is never used itself."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, certificate: Certificate) -> None:
        self._current = _context(certificate)

    def use(self, certificate: Certificate) -> None:
        """Give this one to connections that come from now on."""
        self._current = _context(certificate)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the signature of `ssl`
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection."""
        return self._current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class _CaProblem(Exception):
    """The file of the CA holds no certificates."""


def _context(certificate: Certificate) -> ssl.SSLContext:
    """Return a context: TLS 1.2 and newer, and where there is a client CA a certificate of it is demanded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Without a password OpenSSL would ask for one at the terminal.
    with _as_file(certificate.cert) as cert, _as_file(certificate.key) as key:
        context.load_cert_chain(cert, key, lambda: certificate.password)
    if certificate.client_ca is not None:
        try:
            context.load_verify_locations(cadata=certificate.client_ca.decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise _CaProblem from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: Path | None, cert: Path | None, *, names: tuple[str, str]) -> ssl.SSLContext:
    """Return a context for a caller: what it trusts (None: the system's) and what it presents.

    Raises `Invalid` with one of `names`, the settings that the two come from.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError):
        raise Invalid(names[0], str(ca), "a file of CA certificates in PEM that can be read") from None
    if cert is not None:
        try:
            context.load_cert_chain(cert, password=lambda: "")
        except (OSError, ValueError):
            raise Invalid(names[1], str(cert), "a certificate with its key, not encrypted, in one PEM file") from None
    return context


def moment(seconds: int) -> str:
    """Return a time for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _content(name: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
    except OSError as problem:
        raise Invalid(name, str(path), f"a file that can be read ({problem.strerror})") from None
    if len(content) > _LONGEST:
        raise Invalid(name, str(path), f"a file of at most {_LONGEST} bytes")
    return content


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield a path under which OpenSSL, which takes certificates from files only, reads this; in memory where that can be."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("tls")
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.name
