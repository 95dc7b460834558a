"""Hashes of passwords as accounts keep them: bcrypt."""

from __future__ import annotations

import re
from typing import Final

import bcrypt

from companion.core.errors import Invalid

MAX_PASSWORD_BYTES: Final = 72
"""bcrypt reads no further; a longer password is refused rather than cut."""

_HASH: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")


def hash_cost(password_hash: str) -> int | None:
    """Return the cost of a bcrypt hash; None when it is none."""
    match = _HASH.fullmatch(password_hash)
    return int(match[1]) if match else None


def hash_password(password: str, cost: int) -> str:
    """Return the bcrypt hash of a new password; takes a noticeable time. Raises `Invalid` for what bcrypt cannot hold."""
    try:
        encoded = password.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not 1 <= len(encoded) <= MAX_PASSWORD_BYTES or b"\0" in encoded:
        raise Invalid("password", "***", f"1 to {MAX_PASSWORD_BYTES} bytes of UTF-8 without NUL")
    return bcrypt.hashpw(encoded, bcrypt.gensalt(cost)).decode()
