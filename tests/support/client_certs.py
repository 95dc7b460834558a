"""Certificates of clients, as an EMQX listener that verifies them tells us about them."""

from __future__ import annotations

import base64
import datetime as dt
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

ORGANIZATION = "Example"


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate in the forms in which it is needed."""

    key: Any
    name: str
    pem: str
    fingerprint: str
    ends: int

    @property
    def bare(self) -> str:
        """Base64 without armour, as EMQX sends `cert_pem`."""
        return "".join(self.pem.splitlines()[1:-1])

    @property
    def fields(self) -> dict[str, str]:
        """The fields of a request that tell of it."""
        return {
            "cert_common_name": self.name,
            "cert_subject": f"CN={self.name},O={ORGANIZATION}",
            "cert_pem": self.bare,
        }


def client_certificate(name: str, *, begins: float = -3600, ends: float = 86_400) -> ClientCertificate:
    """Return a self-signed certificate, good from and to so many seconds from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
        ]
    )
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    until = now + dt.timedelta(seconds=ends)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(seconds=begins))
        .not_valid_after(until)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM).decode()
    assert base64.b64decode("".join(pem.splitlines()[1:-1])) == certificate.public_bytes(Encoding.DER)
    return ClientCertificate(key, name, pem, certificate.fingerprint(hashes.SHA256()).hex(), int(until.timestamp()))
