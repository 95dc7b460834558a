"""Pseudonyms: the same for the same value, of the same kind, known as such, and nothing to be learnt from them without the key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.pseudonyms import Pseudonyms, is_id, is_pseudonym

OURS = Pseudonyms("k" * 32)
OTHER = Pseudonyms("o" * 32)
ID = "65f1a2b3c4d5e6f708192a3b"


@pytest.mark.parametrize(
    "text", ["alice", "alice@example.org", ID, "+49 30 123", "10.0.0.1", "é", "anon-alice", "f" * 24 + "0"]
)
def test_a_pseudonym(text: str) -> None:
    """It is another text that shows what it is, the same each time, another under another key, and its own pseudonym."""
    made = OURS.of(text)
    assert is_pseudonym(made)
    assert not is_pseudonym(text)
    assert text not in made
    assert OURS.of(text) == made == Pseudonyms("k" * 32).of(text) != OTHER.of(text)
    assert OURS.of(made) == OTHER.of(made) == made


def test_kinds() -> None:
    """An id has an id, a mail address one to which no mail goes, and nothing has nothing."""
    assert is_id(OURS.of(ID))
    assert OURS.of(ID) == OURS.of(ID.upper())
    assert OURS.of("a@b.example").endswith("@anon.invalid")
    assert OURS.of("") == ""
    assert OURS.of("Alice") != OURS.of("alice")


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_two(one: str, other: str) -> None:
    """What differs has different pseudonyms, but for the case of ids."""
    same = one == other or (is_id(one) and one.lower() == other.lower())
    assert (OURS.of(one) == OURS.of(other)) is same
