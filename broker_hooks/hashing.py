"""Passwords and their hashes: new ones are bcrypt; whatever accounts are brought in with is checked."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from typing import Final

import argon2
import bcrypt

from companion.core.errors import Invalid
from companion.core.password_hashes import (
    AnyOf,
    Argon2,
    Bcrypt,
    PasswordHash,
    Pbkdf2,
    Plain,
    Salted,
    parse_password_hash,
)

MAX_PASSWORD_BYTES: Final = 72
"""bcrypt reads no further; a longer password is refused rather than cut."""

_BCRYPT_SALT: Final = 29
"""So many characters of a bcrypt hash are kind, cost and salt."""


def takes(password_hash: PasswordHash, password: bytes) -> bool:
    """Tell whether this password can have this hash: bcrypt holds 72 bytes and no NUL; to HMAC, NULs at the end are none."""
    if isinstance(password_hash, AnyOf):
        return any(takes(one, password) for one in password_hash.hashes)
    if isinstance(password_hash, Bcrypt) and len(password) > MAX_PASSWORD_BYTES:
        return False
    return b"\0" not in password or not isinstance(password_hash, Bcrypt | Pbkdf2)


def verify(password: bytes, password_hash: PasswordHash) -> bool:
    """Tell whether the password belongs to the hash, in the time that takes; the GIL is released where it is long.

    Raises `ValueError` for a hash that its library refuses.
    """
    match password_hash:
        case Bcrypt():
            return bcrypt.checkpw(password, password_hash.text.encode())
        case Argon2():
            return _argon2(password, password_hash)
        case Plain():
            return hmac.compare_digest(password, password_hash.secret)
        case Pbkdf2():
            size = len(password_hash.digest)
            made = hashlib.pbkdf2_hmac(
                password_hash.algorithm, password, password_hash.salt, password_hash.iterations, size
            )
            return hmac.compare_digest(made, password_hash.digest)
        case Salted():
            parts = (password_hash.salt, password)
            together = b"".join(parts if password_hash.position == "prefix" else reversed(parts))
            return hmac.compare_digest(hashlib.new(password_hash.algorithm, together).digest(), password_hash.digest)
        case AnyOf():
            return _any_of(password, password_hash)


def _any_of(password: bytes, several: AnyOf) -> bool:
    """Check all of them, whichever fits: the time tells nothing about that. One that nobody can check is no harm to the others."""
    fits, checked = False, 0
    by_salt: dict[bytes, list[bytes]] = {}
    for one in several.hashes:
        if not takes(one, password):
            continue
        if isinstance(one, Bcrypt):
            text = one.text.encode()
            by_salt.setdefault(text[:_BCRYPT_SALT], []).append(text)
        else:
            with contextlib.suppress(ValueError):
                fits |= verify(password, one)
                checked += 1
    for salt, texts in by_salt.items():
        with contextlib.suppress(ValueError):
            made = bcrypt.hashpw(password, salt)
            checked += 1
            for text in texts:
                fits |= hmac.compare_digest(made, text)
    if not checked:
        raise ValueError("none of the hashes can be checked")
    return fits


def _argon2(password: bytes, password_hash: Argon2) -> bool:
    try:
        return argon2.low_level.verify_secret(password_hash.text.encode(), password, argon2.Type.ID)
    except argon2.exceptions.VerifyMismatchError:
        return False
    except argon2.exceptions.Argon2Error:
        raise ValueError("Argon2 refuses this hash") from None


def hash_password(password: str, cost: int, beside: str = "") -> str:
    """Return the bcrypt hash of a new password; takes a noticeable time. Raises `Invalid` for what bcrypt cannot hold.

    It gets the salt of the hash `beside`, another secret of the same account, where that is bcrypt of this cost: then both are
    checked at the price of one.
    """
    try:
        encoded = password.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not 1 <= len(encoded) <= MAX_PASSWORD_BYTES or b"\0" in encoded:
        raise Invalid("password", "***", f"1 to {MAX_PASSWORD_BYTES} bytes of UTF-8 without NUL")
    known = parse_password_hash(beside)
    shared = isinstance(known, Bcrypt) and known.cost == cost
    salt = beside[:_BCRYPT_SALT].encode() if shared else bcrypt.gensalt(cost)
    return bcrypt.hashpw(encoded, salt).decode()
