"""Credential kind `certificate`: a client certificate that the account of the user name is known by.

What is judged here has been verified by the broker: its listener asks for certificates and trusts only those of its authority
(`verify = verify_peer`). Behind one that does not, nothing that a client shows would mean anything. An account without pins, or a
client without a certificate, is left to the next kind; a certificate that is not the one of the account is refused.
"""

from __future__ import annotations

import binascii
import hashlib
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from broker_hooks.directory import Directory, refusal
from broker_hooks.granting import Granting
from companion.core.certificate_pins import is_pinned
from companion.core.errors import Invalid
from companion.core.model import Connect, Decision, Deny, Reason


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a certificate itself says: its fingerprint, and from when to when it is good (Unix seconds)."""

    fingerprint: str
    begins: float
    ends: float


class CertificateCredential:
    """Tries the client certificate."""

    def __init__(self, directory: Directory, *, granting: Granting, now: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._granting = granting
        self._now = now

    async def decide(self, connect: Connect) -> Decision | None:
        """Judge; None when there is no certificate, or no account of this user name that is known by one."""
        if not self.concerns(connect):
            return None
        account = await self._directory.account(connect.username)
        if account is None or not account.certificates:
            return None
        shown = _read(connect.cert_pem) if connect.cert_pem else None
        if isinstance(shown, Deny):
            return shown
        now = self._now()
        refused = (
            self._refusal(account.certificates, connect, shown) or _out_of_time(shown, now) or refusal(account, now)
        )
        if refused:
            return refused
        await self._directory.end_session(connect.username, connect.client_id)
        return self._granting.allow(Reason.CERTIFICATE, account, ends=int(shown.ends) if shown else None)

    def concerns(self, connect: Connect) -> bool:
        """Tell whether there is a certificate."""
        return bool(connect.username and (connect.cert_common_name or connect.cert_subject or connect.cert_pem))

    def recall(self, connect: Connect) -> None:
        """Return None: what a certificate shows is read each time."""
        del connect

    @staticmethod
    def _refusal(pins: tuple[str, ...], connect: Connect, shown: _Shown | None) -> Deny | None:
        fits = is_pinned(
            pins,
            common_name=connect.cert_common_name,
            subject=connect.cert_subject,
            fingerprint=shown.fingerprint if shown else "",
        )
        return None if fits else Deny(Reason.WRONG_CERTIFICATE, detail="the account is known by another certificate")


def _out_of_time(shown: _Shown | None, now: float) -> Deny | None:
    if shown is not None and shown.begins > now:
        return Deny(Reason.CERTIFICATE_NOT_YET)
    if shown is not None and shown.ends <= now:
        return Deny(Reason.CERTIFICATE_EXPIRED)
    return None


def _read(text: str) -> _Shown | Deny:
    """Read base64 without armour, as EMQX sends a certificate."""
    try:
        der = b64decode(text, validate=True)
        certificate = x509.load_der_x509_certificate(der)
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except (binascii.Error, ValueError):
        return Deny(Reason.MALFORMED, detail="cert_pem is no certificate as base64 without armour")
    return _Shown(hashlib.sha256(der).hexdigest(), begins.timestamp(), ends.timestamp())


def pin_of_file(path: Path) -> str:
    """Return the pin of the first certificate in a PEM file. Raises `Invalid` when there is none."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        raise Invalid("certificate", str(path), "a file with a certificate as PEM") from None
    return f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}"
