"""Password hashes as text, in the encodings that accounts are brought in with. Pure.

What stands in one field already is read as it is:

    $2b$10$...                                      bcrypt
    PBKDF2$sha512$100000$<salt>$<hash>              mosquitto-go-auth (base64)
    $7$101$<salt>$<hash>                            mosquitto's own password file: PBKDF2 with SHA-512 (base64)
    $6$<salt>$<hash>                                the same before 2.0: salted SHA-512 (base64)
    $argon2id$v=19$m=65536,t=3,p=4$<salt>$<hash>    Argon2id (RFC 9106), by whomever

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
_MOSQUITTO_OLD: Final = re.compile(r"\$6\$([^$]+)\$([A-Za-z0-9+/]{86}==)")
"""The length tells it from sha512crypt's, which begins alike."""

_ARGON2: Final = re.compile(
    r"\$argon2id\$v=19\$m=([0-9]{1,8}),t=([0-9]{1,5}),p=([0-9]{1,3})\$[A-Za-z0-9+/]{11,128}\$[A-Za-z0-9+/]{16,128}"
)
_SALTED: Final = re.compile(r"\$(sha256|sha512)\$(prefix|suffix)\$([^$]*)\$([^$]+)")
_PLAIN: Final = re.compile(r"\$plain\$([^$]+)")

_DERIVATIONS_PER_BCRYPT: Final = 100
"""So many iterations of PBKDF2 take about as long as one of the 2 ** cost rounds of bcrypt."""

_KIB_PER_BCRYPT: Final = 64
"""Argon2 goes through so many KiB of memory once in that time, about."""

_MOST_KIB: Final = 262_144
"""Memory of one check; several run at once."""

_MOST_LANES: Final = 16
_BLOCK: Final = {"sha256": 32, "sha512": 64}


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
class Argon2:
    """An Argon2id hash: `memory` in KiB, gone through `passes` times, in `lanes` threads."""

    text: str = field(repr=False)
    memory: int
    passes: int
    lanes: int


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


Single = Bcrypt | Pbkdf2 | Argon2 | Salted | Plain


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Hashes of several secrets, each of which will do. Those of bcrypt that share a salt are checked at the price of one."""

    hashes: tuple[Single, ...]


PasswordHash = Single | AnyOf


def parse_password_hash(text: str) -> Single | None:
    """Read a hash; None for what is none, or of an encoding that is not known."""
    try:
        if match := _BCRYPT.fullmatch(text):
            return Bcrypt(text, int(match[1]))
        if match := _PBKDF2.fullmatch(text):
            return _sound(Pbkdf2(_algorithm(match[1]), int(match[2]), _bytes(match[3]), _bytes(match[4])))
        if match := _MOSQUITTO.fullmatch(text):
            return _sound(Pbkdf2("sha512", int(match[1]), _bytes(match[2]), _bytes(match[3])))
        if match := _MOSQUITTO_OLD.fullmatch(text):
            return Salted("sha512", "suffix", _bytes(match[1]), _bytes(match[2]))
        if match := _ARGON2.fullmatch(text):
            return Argon2(text, int(match[1]), int(match[2]), int(match[3]))
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
    match password_hash:
        case Bcrypt():
            return password_hash.cost <= max_cost
        case Pbkdf2():
            # Every block of a long digest costs all iterations again.
            blocks = -(-len(password_hash.digest) // _BLOCK[password_hash.algorithm])
            return password_hash.iterations * blocks <= _DERIVATIONS_PER_BCRYPT << max_cost
        case Argon2():
            within = password_hash.memory <= _MOST_KIB and password_hash.lanes <= _MOST_LANES
            return within and password_hash.memory * password_hash.passes <= _KIB_PER_BCRYPT << max_cost
        case AnyOf():
            return all(affordable(one, max_cost) for one in password_hash.hashes)
        case _:
            return True


def cheap(password_hash: PasswordHash) -> bool:
    """Tell whether checking this hash takes next to no time."""
    if isinstance(password_hash, AnyOf):
        return all(map(cheap, password_hash.hashes))
    return isinstance(password_hash, Plain | Salted)


def outdated(password_hash: Single, cost: int) -> bool:
    """Tell whether the secret had better be kept as bcrypt of this cost."""
    return not isinstance(password_hash, Bcrypt) or password_hash.cost < cost


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
