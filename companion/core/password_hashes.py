"""Password hashes as text, in the encodings that accounts are brought in with. Pure.

What stands in one field already is read as it is:

    $2b$10$...                                      bcrypt
    PBKDF2$sha512$100000$<salt>$<hash>              mosquitto-go-auth (base64)
    $7$101$<salt>$<hash>                            mosquitto's own password file: PBKDF2 with SHA-512 (base64)

What is spread over several fields (EMQX keeps the salt beside the hash) is put together by `salted`, `derived` and `plain`:

    $sha256$suffix$<salt>$<hash>                    salted SHA-256 or SHA-512 (base64)
    $plain$<secret>                                 the secret itself (base64), as some platforms keep the tokens of devices
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

Algorithm = Literal["sha256", "sha512"]
Position = Literal["prefix", "suffix"]

_BCRYPT: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_PBKDF2: Final = re.compile(r"PBKDF2\$(sha256|sha512)\$([0-9]{1,9})\$([^$]*)\$([^$]+)")
_MOSQUITTO: Final = re.compile(r"\$7\$([0-9]{1,9})\$([^$]+)\$([^$]+)")
_SALTED: Final = re.compile(r"\$(sha256|sha512)\$(prefix|suffix)\$([^$]*)\$([^$]+)")
_PLAIN: Final = re.compile(r"\$plain\$([^$]+)")

_DERIVATIONS_PER_BCRYPT: Final = 100
"""So many iterations of PBKDF2 take about as long as one of the 2 ** cost rounds of bcrypt."""


@dataclass(frozen=True, slots=True)
class Bcrypt:
    """A bcrypt hash; `cost` is the logarithm of its rounds."""

    text: str = field(repr=False)
    cost: int


@dataclass(frozen=True, slots=True)
class Pbkdf2:
    """PBKDF2 (RFC 8018) with HMAC over `algorithm`."""

    algorithm: Algorithm
    iterations: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Salted:
    """One round of `algorithm` over salt and password."""

    algorithm: Algorithm
    position: Position
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Plain:
    """The secret itself."""

    secret: bytes = field(repr=False)


PasswordHash = Bcrypt | Pbkdf2 | Salted | Plain


def parse_password_hash(text: str) -> PasswordHash | None:
    """Read a hash; None for what is none, or of an encoding that is not known."""
    try:
        if match := _BCRYPT.fullmatch(text):
            return Bcrypt(text, int(match[1]))
        if match := _PBKDF2.fullmatch(text):
            return _sound(Pbkdf2(_algorithm(match[1]), int(match[2]), _bytes(match[3]), _bytes(match[4])))
        if match := _MOSQUITTO.fullmatch(text):
            return _sound(Pbkdf2("sha512", int(match[1]), _bytes(match[2]), _bytes(match[3])))
        if match := _SALTED.fullmatch(text):
            position: Position = "prefix" if match[2] == "prefix" else "suffix"
            return Salted(_algorithm(match[1]), position, _bytes(match[3]), _bytes(match[4]))
        if match := _PLAIN.fullmatch(text):
            return Plain(_bytes(match[1]))
    except (binascii.Error, ValueError):
        return None
    return None


def affordable(password_hash: PasswordHash, max_cost: int) -> bool:
    """Tell whether checking this hash takes no longer than bcrypt of `max_cost` does, about: a planted one could burn the CPU."""
    if isinstance(password_hash, Bcrypt):
        return password_hash.cost <= max_cost
    if isinstance(password_hash, Pbkdf2):
        return password_hash.iterations <= _DERIVATIONS_PER_BCRYPT << max_cost
    return True


def salted(algorithm: Algorithm, position: Position, salt: str, digest: str) -> str:
    """Return the text of a hash that is kept as `digest` (hexadecimal) beside its salt. Raises ValueError for another digest."""
    return f"${algorithm}${position}${_text(salt.encode())}${_text(bytes.fromhex(digest))}"


def derived(algorithm: Algorithm, iterations: int, salt: str, digest: str) -> str:
    """Return the text of a PBKDF2 hash that is kept as `digest` (hexadecimal) beside its salt; ValueError for another digest."""
    return f"PBKDF2${algorithm}${iterations}${_text(salt.encode())}${_text(bytes.fromhex(digest))}"


def plain(secret: str) -> str:
    """Return the text of a secret that is kept as it is."""
    return f"$plain${_text(secret.encode())}"


def _sound(password_hash: Pbkdf2) -> Pbkdf2 | None:
    return password_hash if password_hash.iterations and password_hash.digest else None


def _algorithm(name: str) -> Algorithm:
    return next(one for one in get_args(Algorithm) if one == name)


def _bytes(text: str) -> bytes:
    return b64decode(text + "=" * (-len(text) % 4), validate=True)


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()
