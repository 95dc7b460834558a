"""Keys that tokens (JWT) are verified with. Every key is pinned to the algorithms of its own type.

So a public key never serves as an HMAC secret, whatever the header of a token says (RFC 8725 §3.1), and a key of one curve or type
verifies nothing that is said to be of another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

from companion.core import strict_json
from companion.core.errors import Invalid

HMAC_BYTES: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The least length of a secret (RFC 7518 §3.2)."""

_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_RSA_BITS: Final = 2048
"""The least size of a key (RFC 7518 §3.3)."""

_CURVES: Final[Mapping[type, frozenset[str]]] = {
    ec.SECP256R1: frozenset({"ES256"}),
    ec.SECP384R1: frozenset({"ES384"}),
    ec.SECP521R1: frozenset({"ES512"}),
}
_PEM: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_CERTIFICATE: Final = "CERTIFICATE"
_PUBLIC: Final = frozenset({"PUBLIC KEY", "RSA PUBLIC KEY", _CERTIFICATE})
_READERS: Final[Mapping[str, Any]] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
_MOST_KEYS: Final = 100


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key, the algorithms that it may verify, and the id by which tokens name it (empty: none)."""

    key: Any = field(repr=False)
    algorithms: frozenset[str]
    kid: str = ""


def key_of_secret(secret: bytes, kid: str = "") -> VerificationKey:
    """Return the key of an HMAC secret; one that is too short for an algorithm does not verify it."""
    return VerificationKey(secret, frozenset(name for name, size in HMAC_BYTES.items() if len(secret) >= size), kid)


def keys_in_pem(text: str, place: str) -> Sequence[VerificationKey]:
    """Return the public keys, also those in certificates, of a PEM text. Raises `Invalid` naming `place`."""
    found = [_key_in_block(match[1], match[0], place) for match in _PEM.finditer(text)]
    if not found:
        raise Invalid(place, "no PEM block", "public keys as PEM: -----BEGIN PUBLIC KEY----- ...")
    return found


def _key_in_block(label: str, block: str, place: str) -> VerificationKey:
    if label not in _PUBLIC:
        # Whoever only verifies has no business with a private key.
        raise Invalid(place, label, "public keys or certificates only")
    try:
        if label == _CERTIFICATE:
            public: Any = x509.load_pem_x509_certificate(block.encode()).public_key()
        else:
            public = load_pem_public_key(block.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise Invalid(place, label, "a PEM block that can be read") from None
    algorithms = _algorithms_of(public)
    if not algorithms:
        raise Invalid(place, label, f"a key of RSA (from {_RSA_BITS} bits), P-256, P-384, P-521, Ed25519 or Ed448")
    return VerificationKey(public, algorithms)


def keys_in_jwks(body: bytes, *, secrets: bool) -> tuple[VerificationKey, ...]:
    """Return the keys of a JWK Set (RFC 7517 §5) that can verify; those of other kinds and for other uses are left out.

    Symmetric keys count only with `secrets`: what everybody can fetch is none. Raises `ValueError` for what is no such set, or has
    no key in it that is of use.
    """
    try:
        content = strict_json.decode(body)
    except strict_json.NotJson as problem:
        raise ValueError(str(problem)) from None
    listed = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(listed, list) or len(listed) > _MOST_KEYS:
        raise ValueError(f"not a JWK Set of at most {_MOST_KEYS} keys")
    found = tuple(key for one in listed if isinstance(one, dict) for key in _keys_of_jwk(one, secrets=secrets))
    if not found:
        raise ValueError("no key in the JWK Set can verify a signature")
    return found


def _keys_of_jwk(jwk: Mapping[str, Any], *, secrets: bool) -> Iterator[VerificationKey]:
    operations = jwk.get("key_ops")
    if jwk.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        return
    kty, kid = jwk.get("kty"), jwk.get("kid")
    try:
        if kty == "oct" and secrets:
            key = key_of_secret(HMACAlgorithm.from_jwk(dict(jwk)))
        elif isinstance(kty, str) and kty in _READERS and "d" not in jwk:
            public = _READERS[kty].from_jwk(dict(jwk))
            key = VerificationKey(public, _algorithms_of(public))
        else:
            return
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return
    algorithms = key.algorithms & {jwk["alg"]} if isinstance(jwk.get("alg"), str) else key.algorithms
    if algorithms:
        yield VerificationKey(key.key, algorithms, kid if isinstance(kid, str) else "")


def _algorithms_of(public: object) -> frozenset[str]:
    if isinstance(public, rsa.RSAPublicKey):
        return _RSA if public.key_size >= _RSA_BITS else frozenset()
    if isinstance(public, ec.EllipticCurvePublicKey):
        return _CURVES.get(type(public.curve), frozenset())
    if isinstance(public, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return frozenset({"EdDSA"})
    return frozenset()
