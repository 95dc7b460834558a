"""Pseudonyms: what stands in the place of what tells who somebody was. Pure.

A pseudonym is the HMAC-SHA256 of a value under a key of the deployment. The same value has the same pseudonym everywhere, so that
what was joined by it stays joined; without the key nobody can tell whose it is, or try out who it might be. It has the kind of what
it stands for, so that it can stand where that stood, and shows what it is, so that nobody makes another one of it:

    alice                       anon-mfzwizltoq2gcz3joa5tembzhe
    alice@example.org           anon-mfzwizltoq2gcz3joa5tembzhe@anon.invalid     (no mail goes there: RFC 2606)
    65f1a2b3c4d5e6f708192a3b    ffffffff0c1d2e3f40516273                         (an id of the year 2106)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Final

_MARK: Final = "anon-"
_NOWHERE: Final = "@anon.invalid"
_ID_MARK: Final = "ffffffff"
_DIGEST_BYTES: Final = 16
_ID_BYTES: Final = 8
_ID: Final = re.compile(r"[0-9a-fA-F]{24}")
_MAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")
_PSEUDONYM: Final = re.compile(r"anon-[a-z2-7]{26}(@anon\.invalid)?|ffffffff[0-9a-f]{16}")
_PURPOSE: Final = b"companion:pseudonym:1\0"


def is_id(text: str) -> bool:
    """Tell whether a text is the hexadecimal of an ObjectId."""
    return _ID.fullmatch(text) is not None


def is_pseudonym(text: str) -> bool:
    """Tell whether a text is a pseudonym, under whichever key."""
    return _PSEUDONYM.fullmatch(text) is not None


class Pseudonyms:
    """Makes pseudonyms under one key."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def of(self, text: str) -> str:
        """Return the pseudonym of a text; a pseudonym, and an empty text, as it is."""
        if not text or is_pseudonym(text):
            return text
        if is_id(text):
            return _ID_MARK + self._digest(text.lower())[:_ID_BYTES].hex()
        name = base64.b32encode(self._digest(text)).decode().rstrip("=").lower()
        return f"{_MARK}{name}{_NOWHERE if _MAIL.fullmatch(text) else ''}"

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._key, _PURPOSE + text.encode("utf-8", "surrogatepass"), hashlib.sha256)[:_DIGEST_BYTES]
