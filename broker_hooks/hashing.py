"""Passwords and their hashes: new ones are bcrypt; whatever accounts are brought in with is checked."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

import bcrypt

from companion.core.errors import Invalid
from companion.core.password_hashes import Bcrypt, PasswordHash, Pbkdf2, Plain

MAX_PASSWORD_BYTES: Final = 72
"""bcrypt reads no further; a longer password is refused rather than cut."""


def takes(password_hash: PasswordHash, password: bytes) -> bool:
    """Tell whether this password can have this hash: bcrypt holds 72 bytes and no NUL; to HMAC, NULs at the end are none."""
    if isinstance(password_hash, Bcrypt) and len(password) > MAX_PASSWORD_BYTES:
        return False
    return b"\0" not in password or not isinstance(password_hash, Bcrypt | Pbkdf2)


def verify(password: bytes, password_hash: PasswordHash) -> bool:
    """Tell whether the password belongs to the hash, in the time that takes; the GIL is released where it is long.

    Raises `ValueError` for a hash that bcrypt refuses.
    """
    if isinstance(password_hash, Bcrypt):
        return bcrypt.checkpw(password, password_hash.text.encode())
    if isinstance(password_hash, Plain):
        return hmac.compare_digest(password, password_hash.secret)
    if isinstance(password_hash, Pbkdf2):
        size = len(password_hash.digest)
        made = hashlib.pbkdf2_hmac(
            password_hash.algorithm, password, password_hash.salt, password_hash.iterations, size
        )
    else:
        parts = (password_hash.salt, password)
        together = b"".join(parts if password_hash.position == "prefix" else reversed(parts))
        made = hashlib.new(password_hash.algorithm, together).digest()
    return hmac.compare_digest(made, password_hash.digest)


def hash_password(password: str, cost: int) -> str:
    """Return the bcrypt hash of a new password; takes a noticeable time. Raises `Invalid` for what bcrypt cannot hold."""
    try:
        encoded = password.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not 1 <= len(encoded) <= MAX_PASSWORD_BYTES or b"\0" in encoded:
        raise Invalid("password", "***", f"1 to {MAX_PASSWORD_BYTES} bytes of UTF-8 without NUL")
    return bcrypt.hashpw(encoded, bcrypt.gensalt(cost)).decode()
