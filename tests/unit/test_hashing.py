"""Hashes of passwords."""

from __future__ import annotations

import bcrypt
import pytest

from broker_hooks.hashing import hash_cost, hash_password
from companion.core.errors import Invalid


@pytest.mark.parametrize("password", ["x", "x" * 72, "é" * 36, " ", 'p"w\\+ %😀\t\n'])
def test_a_hash_is_of_its_password(password: str) -> None:
    """What was hashed is recognised, at the cost that was asked for, and never twice as the same text."""
    hashed = hash_password(password, 4)
    assert bcrypt.checkpw(password.encode(), hashed.encode())
    assert hash_cost(hashed) == 4
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
    assert hash_cost(text) == cost
