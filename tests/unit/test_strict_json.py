"""Strict JSON: what is taken, what is refused, and that nothing else happens whatever is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.strict_json import MAX_DEPTH, NotJson, RepeatedKey, decode
from tests.support.bad_bodies import NOT_JSON, OTHER_VALUES, SECRET
from tests.support.hypo import examples

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
PIECES = (
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"',
    '"a"',
    "\\",
    "\\u0000",
    "\\ud800",
    "1",
    "-",
    ".",
    "e9",
    "NaN",
    "true",
    " ",
    "\0",
)


def same(one: object, other: object) -> bool:
    """Compare as JSON does, where 1, 1.0 and true are three values."""
    return json.dumps(one) == json.dumps(other)


@examples(150)
@given(VALUES, st.booleans(), st.sampled_from((None, 0, 3)))
def test_json_comes_back(value: Any, ascii_only: bool, indent: int | None) -> None:  # noqa: FBT001 - hypothesis gives it
    """Whatever JSON can say clearly is read as it was written, however it was written."""
    assert same(decode(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()), value)


@examples(300)
@given(st.binary(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join).map(str.encode))
def test_whatever_is_sent(body: bytes) -> None:
    """Any bytes give a value, which is then the one that every reader sees, or `NotJson`; nothing else."""
    check(body)


def check(body: bytes) -> None:
    """Fail unless the body is either refused or read as every other reader would."""
    try:
        value = decode(body)
    except NotJson:
        return
    assert same(json.loads(body), value)
    assert same(decode(json.dumps(value).encode()), value)


@examples(150)
@given(VALUES, st.integers(0, 200), st.binary(max_size=2))
def test_something_else_in_the_middle(value: Any, place: int, bytes_: bytes) -> None:
    """The same for JSON with a spot in it."""
    body = json.dumps(value, ensure_ascii=False).encode()
    check(body[:place] + bytes_ + body[place + 1 :])


@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_refused(name: str) -> None:
    """What is no JSON, or ambiguous, is refused with one line that repeats nothing of it."""
    with pytest.raises(NotJson) as problem:
        decode(NOT_JSON[name])
    assert str(problem.value).isprintable()
    assert SECRET not in str(problem.value)


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_any_value_is_json(name: str) -> None:
    """A JSON text need not be an object."""
    assert decode(json.dumps(OTHER_VALUES[name]).encode()) == OTHER_VALUES[name]


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_the_depth(opening: str, closing: str) -> None:
    """Nesting is taken up to the limit, and refused one level beyond it."""
    step = opening.count("[") + opening.count("{")
    for levels, taken in ((MAX_DEPTH, True), (MAX_DEPTH + step, False)):
        body = (opening * (levels // step) + "1" + closing * (levels // step)).encode()
        if taken:
            assert same(decode(body), json.loads(body))
        else:
            with pytest.raises(NotJson, match=f"deeper than {MAX_DEPTH} levels"):
                decode(body)


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 0, 1.7976931348623157e308, 5e-324, -0.0])
def test_the_largest_numbers(number: float) -> None:
    """Every integer of 64 bits and every double is taken."""
    assert same(decode(json.dumps(number).encode()), number)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 10**4299])
def test_numbers_beyond(number: int) -> None:
    """Integers that other readers would round or cut are refused."""
    with pytest.raises(NotJson):
        decode(json.dumps([number]).encode())


def test_a_repeated_key_is_named() -> None:
    """Who repeats a key is told which, apart from the message, which repeats nothing."""
    with pytest.raises(RepeatedKey) as problem:
        decode(b'{"a":1,"secret":2,"b":{"c":1},"secret":3}')
    assert problem.value.key == "secret"
    assert "secret" not in str(problem.value)
    assert decode(b'{"a":{"a":{"a":1}},"A":1}') == {"a": {"a": {"a": 1}}, "A": 1}
