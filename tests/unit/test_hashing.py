"""Hashes of passwords."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import argon2
import bcrypt
import pytest

from broker_hooks.hashing import hash_password, takes, verify
from companion.core.errors import Invalid
from companion.core.password_hashes import (
    AnyOf,
    Argon2,
    Bcrypt,
    PasswordHash,
    Pbkdf2,
    Plain,
    affordable,
    cheap,
    derived,
    parse_password_hash,
    plain,
    salted,
)


@pytest.mark.parametrize("password", ["x", "x" * 72, "é" * 36, " ", 'p"w\\+ %😀\t\n'])
def test_a_hash_is_of_its_password(password: str) -> None:
    """What was hashed is recognised, at the cost that was asked for, and never twice as the same text."""
    hashed = hash_password(password, 4)
    assert bcrypt.checkpw(password.encode(), hashed.encode())
    assert parse_password_hash(hashed) == Bcrypt(hashed, 4)
    assert hash_password(password, 4) != hashed


@pytest.mark.parametrize("password", ["", "x" * 73, "é" * 37, "a\0b", "\0", "\ud800"])
def test_what_cannot_be_hashed(password: str) -> None:
    """What bcrypt would cut, or cannot take, is refused without being shown."""
    with pytest.raises(Invalid, match="72 bytes") as problem:
        hash_password(password, 4)
    assert problem.value.value == "'***'"


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("$2b$10$" + "." * 53, 10),
        ("$2a$04$" + "." * 53, 4),
        ("$2y$31$" + "/" * 53, 31),
        ("$2x$10$" + "." * 53, None),
        ("$2b$1$" + "." * 53, None),
        ("$2b$10$" + "." * 52, None),
        ("$2b$10$" + "." * 54, None),
        ("$2b$10$" + "." * 53 + "\n", None),
        ("$2b$10$" + "=" * 53, None),
        ("$2b$٠٤$" + "." * 53, None),
        ("$argon2id$v=19$m=65536$c2FsdA$aGFzaA", None),
        ("secret", None),
        ("", None),
    ],
)
def test_the_cost_of_a_hash(text: str, cost: int | None) -> None:
    """The cost is read from a bcrypt hash; whatever is none has none."""
    assert parse_password_hash(text) == (None if cost is None else Bcrypt(text, cost))


def b64(raw: bytes) -> str:
    return b64encode(raw).decode()


def pbkdf2(algorithm: str, iterations: int) -> str:
    digest = hashlib.pbkdf2_hmac(algorithm, b"secret", b"pepper", iterations, 32)
    return f"PBKDF2${algorithm}${iterations}${b64(b'pepper')}${b64(digest)}"


BROUGHT = {
    "RFC 7914 section 11, first vector of PBKDF2-HMAC-SHA-256": (
        "passwd",
        derived(
            "sha256",
            1,
            "salt",
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
            "49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783",
        ),
    ),
    "go-auth": ("secret", pbkdf2("sha512", 1000)),
    "go-auth, SHA-256": ("secret", pbkdf2("sha256", 7)),
    "mosquitto": (
        "secret",
        f"$7$101${b64(b'salt')}${b64(hashlib.pbkdf2_hmac('sha512', b'secret', b'salt', 101))}",
    ),
    "mosquitto before 2.0": ("secret", f"$6${b64(b'salt')}${b64(hashlib.sha512(b'secretsalt').digest())}"),
    "argon2id": ("secret", argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=2).hash("secret")),
    "the example of EMQX's documentation": (
        "public",
        salted("sha256", "suffix", "slat_foo123", "44edc2d57cde8d79c98145003e105b90a14f1460b79186ea9cfe83942fc5abb5"),
    ),
    "SHA-512 behind a salt": ("secret", salted("sha512", "prefix", "ab", hashlib.sha512(b"absecret").hexdigest())),
    "SHA-256 without a salt": ("secret", salted("sha256", "prefix", "", hashlib.sha256(b"secret").hexdigest())),
    "the secret itself": ("s$cr/et", plain("s$cr/et")),
}


@pytest.mark.parametrize("name", BROUGHT)
def test_hashes_that_people_bring(name: str) -> None:
    """The right password is recognised, any other is not, however long or with whatever in it."""
    password, text = BROUGHT[name]
    known = parse_password_hash(text)
    assert known is not None
    assert affordable(known, 10)
    assert verify(password.encode(), known)
    for wrong in (password + "x", password[:-1], password.upper(), "", "x" * 1000, password + "\0"):
        assert not (takes(known, wrong.encode()) and verify(wrong.encode(), known))
    assert password not in repr(known)


@pytest.mark.parametrize(
    "text",
    [
        "PBKDF2$md5$1$YQ==$YQ==",
        "PBKDF2$sha512$0$YQ==$YQ==",
        "PBKDF2$sha512$1$YQ==$",
        "PBKDF2$sha512$1$*$YQ==",
        "PBKDF2$sha512$1$YQ==$YQ==$YQ==",
        "PBKDF2$sha512$-1$YQ==$YQ==",
        "$7$0$YQ==$YQ==",
        "$6$YQ==$YQ==",
        "$6$rounds=5000$abc$" + "." * 86,
        "$argon2i$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$" + "A" * 43,
        "$argon2id$v=16$m=64,t=1,p=1$c2FsdHNhbHQ$" + "A" * 43,
        "$argon2id$v=19$t=1,m=64,p=1$c2FsdHNhbHQ$" + "A" * 43,
        "$7$x$YQ==$YQ==",
        "$sha1$prefix$YQ==$YQ==",
        "$sha256$disable$YQ==$YQ==",
        "$sha256$prefix$YQ==$",
        "$plain$",
        "$plain$é",
    ],
)
def test_what_is_no_hash(text: str) -> None:
    """Nothing is guessed: an encoding that is not known, or spoilt, is none."""
    assert parse_password_hash(text) is None


@pytest.mark.parametrize("digest", ["x", "zz", "abc"])
def test_digests_that_are_none(digest: str) -> None:
    """What is not hexadecimal is refused."""
    with pytest.raises(ValueError, match="hex"):
        salted("sha256", "prefix", "", digest)
    with pytest.raises(ValueError, match="hex"):
        derived("sha512", 1, "", digest)


@pytest.mark.parametrize(
    ("known", "ok"),
    [
        (Bcrypt("", 14), True),
        (Bcrypt("", 15), False),
        (Pbkdf2("sha512", 1_638_400, b"", b"x"), True),
        (Pbkdf2("sha512", 1_638_401, b"", b"x"), False),
        (Pbkdf2("sha512", 819_200, b"", b"x" * 65), True),
        (Pbkdf2("sha512", 819_201, b"", b"x" * 65), False),
        (Argon2("", 65_536, 16, 4), True),
        (Argon2("", 65_536, 17, 4), False),
        (Argon2("", 262_145, 1, 1), False),
        (Argon2("", 64, 1, 17), False),
        (AnyOf((Bcrypt("", 14), Plain(b"x"))), True),
        (AnyOf((Bcrypt("", 15), Plain(b"x"))), False),
    ],
)
def test_what_may_be_checked(known: PasswordHash, *, ok: bool) -> None:
    """A hash that takes longer than bcrypt of the highest cost is not checked."""
    assert affordable(known, 14) is ok


def test_any_of_several() -> None:
    """Each of them will do, none is left out for a password that another cannot have, and a hash beside another shares its salt."""
    first = hash_password("first", 4)
    second = hash_password("second", 4, beside=first)
    assert first[:29] == second[:29] != hash_password("second", 5, beside=first)[:29]
    assert hash_password("x", 4, beside="no hash")[:7] == "$2b$04$"
    known = [parse_password_hash(text) for text in (first, second, hash_password("third", 4), plain("fo\0urth"))]
    several = AnyOf(tuple(one for one in known if one is not None))
    assert len(several.hashes) == 4
    for right in ("first", "second", "third", "fo\0urth"):
        assert takes(several, right.encode())
        assert verify(right.encode(), several)
    for wrong in ("", "x", "firs", "first\0", "x" * 100):
        assert not verify(wrong.encode(), several)
    assert not cheap(several)
    assert cheap(AnyOf((Plain(b"x"), Plain(b"y"))))


def test_a_hash_that_its_library_refuses() -> None:
    """What has the form of an Argon2 hash, but is none, is an error and no answer."""
    with pytest.raises(ValueError, match="Argon2"):
        verify(b"x", Argon2("$argon2id$v=19$m=1,t=1,p=4$c2FsdHNhbHQ$" + "A" * 43, 1, 1, 4))
