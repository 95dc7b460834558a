"""Access tokens as the platform makes them, and as somebody else might."""

from __future__ import annotations

import functools
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

SECRET = "the-secret-of-the-tests-".ljust(64, "s")
OTHER_SECRET = "another-secret-of-the-tests-".ljust(64, "o")


def in_seconds(seconds: float) -> int:
    """Return the Unix time in so many seconds."""
    return int(time.time() + seconds)


def claims_of(**changes: Any) -> dict[str, Any]:
    """Return the claims of a session `s1` of the user `u1`, valid for 15 minutes; a change to None leaves a claim out."""
    claims = {
        "type": "access",
        "cid": "c1",
        "aid": "a1",
        "uid": "u1",
        "scope": "publish subscribe",
        "domain": "example.com",
        "subject": "u1@example.com",
        "session": "s1",
        "exp": in_seconds(900),
    }
    return {name: value for name, value in (claims | changes).items() if value is not None}


def token(secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    """Return a signed token of `claims_of(**changes)`."""
    return jwt.encode(claims_of(**changes), secret, algorithm)


def unsigned_token() -> str:
    """Return a token that asks to be believed (RFC 7519 §6)."""
    return jwt.encode(claims_of(), "", "none")


@functools.cache
def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def rsa_token() -> str:
    """Return a token with an asymmetric signature."""
    return jwt.encode(claims_of(), _rsa_key(), "RS256")
