"""SCRAM (RFC 5802, RFC 7677): what a server keeps of a password to check a proof of it without ever having it. Pure.

As text, in the form in which PostgreSQL keeps it too:

    SCRAM-SHA-256$4096:<salt>$<stored key>:<server key>         (base64)
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Final, Literal

from companion.core.errors import Invalid

Algorithm = Literal["sha256", "sha512"]

_SALT_BYTES: Final = 16
_NAMES: Final[dict[Algorithm, str]] = {"sha256": "SCRAM-SHA-256", "sha512": "SCRAM-SHA-512"}
_TEXT: Final = re.compile(r"(SCRAM-SHA-(?:256|512))\$([0-9]{1,9}):([^$:]+)\$([^$:]+):([^$:]+)")
_PROHIBITED: Final = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What is kept of one password."""

    algorithm: Algorithm
    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def __str__(self) -> str:
        """Return it as text."""
        keys = f"{_text(self.stored_key)}:{_text(self.server_key)}"
        return f"{_NAMES[self.algorithm]}${self.iterations}:{_text(self.salt)}${keys}"


def scram_keys(password: str, algorithm: Algorithm, iterations: int, salt: bytes = b"") -> ScramKeys:
    """Return what is kept of a password, with a new salt if none is given; takes a noticeable time.

    Raises `Invalid` for a password with characters that SASLprep (RFC 4013) forbids.
    """
    salt = salt or secrets.token_bytes(_SALT_BYTES)
    salted = hashlib.pbkdf2_hmac(algorithm, _prepared(password), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", algorithm)
    stored_key = hashlib.new(algorithm, client_key).digest()
    return ScramKeys(algorithm, iterations, salt, stored_key, hmac.digest(salted, b"Server Key", algorithm))


def keys_in(text: str) -> ScramKeys | None:
    """Read the text; None for what is none."""
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    algorithm = next(one for one, name in _NAMES.items() if name == match[1])
    try:
        salt, stored_key, server_key = (b64decode(match[number], validate=True) for number in (3, 4, 5))
    except (binascii.Error, ValueError):
        return None
    size = hashlib.new(algorithm).digest_size
    if not salt or len(stored_key) != size or len(server_key) != size:
        return None
    return ScramKeys(algorithm, int(match[2]), salt, stored_key, server_key)


def keys_of_nobody(username: str, key: str, algorithm: Algorithm, iterations: int) -> ScramKeys:
    """Return keys that no password has, the same each time for a name: whoever asks cannot tell that there is nobody.

    `key` is the deployment's; without it the salt cannot be told from a random one.
    """

    def derived(what: bytes, size: int) -> bytes:
        return hmac.digest(key.encode(), what + b"\0" + username.encode(errors="surrogatepass"), "sha512")[:size]

    size = hashlib.new(algorithm).digest_size
    salt = derived(b"scram salt", _SALT_BYTES)
    return ScramKeys(algorithm, iterations, salt, derived(b"scram stored", size), derived(b"scram server", size))


def _prepared(password: str) -> bytes:
    """SASLprep (RFC 4013)."""
    kept = (character for character in password if not stringprep.in_table_b1(character))
    mapped = "".join(" " if stringprep.in_table_c12(character) else character for character in kept)
    text = unicodedata.normalize("NFKC", mapped)
    right_to_left = any(stringprep.in_table_d1(character) for character in text)
    mixed = right_to_left and (
        any(stringprep.in_table_d2(character) for character in text)
        or not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1]))
    )
    if not text or mixed or any(forbidden(character) for character in text for forbidden in _PROHIBITED):
        raise Invalid("password", "***", "for SCRAM, text without control and other special characters (RFC 4013)")
    return text.encode()


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()
