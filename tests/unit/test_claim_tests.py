"""What is demanded of claims."""

from __future__ import annotations

from typing import Any

import pytest

from companion.core.claim_tests import ClaimTest, claim_at, text_of_claim
from companion.core.client_attrs import sendable

CLAIMS = {"a": {"b": 1}, "https://ns/x.y": "url", "a.b": "exact", "n": None}


@pytest.mark.parametrize(
    ("name", "value"),
    [("a.b", "exact"), ("a", {"b": 1}), ("https://ns/x.y", "url"), ("a.c", None), ("n.m", None), ("", None)],
)
def test_claims_by_name_and_path(name: str, value: Any) -> None:
    """The exact name first, then the path."""
    assert claim_at(CLAIMS, name) == value


@pytest.mark.parametrize(
    ("claim", "values", "met"),
    [
        ("x", ("x",), True),
        ("x", ("y", "x"), True),
        ("x", ("X",), False),
        (1, ("1",), True),
        (True, ("true",), True),
        (True, ("1",), False),
        (["x", "y"], ("y",), True),
        ([["y"]], ("y",), False),
        ({"x": 1}, ("*",), False),
        ("x", ("*",), True),
        ("", ("*",), False),
        (None, ("*",), False),
        ([], ("*",), False),
        (False, ("*",), True),
        ("alice", ("${username}",), True),
        ("d-c1", ("d-${clientid}",), True),
        ("d-", ("d-${clientid}x",), False),
        ("${username}", ("${username}",), False),
    ],
)
def test_tests(claim: Any, values: tuple[str, ...], met: bool) -> None:  # noqa: FBT001 - what is expected
    """A value, one of several, one in a list, any; names that the client sends."""
    assert ClaimTest("x", values).met(claim, "alice", "c1") is met


def test_a_name_that_was_not_sent_meets_nothing() -> None:
    """An empty user name is no value, and one that looks like a placeholder is not filled in again."""
    assert not ClaimTest("x", ("${username}",)).met("", "", "c1")
    assert not ClaimTest("x", ("${username}",)).met("c1", "${clientid}", "c1")


def test_text_of_claims() -> None:
    """Only single values have a text."""
    values: list[Any] = ["a", 1, 1.5, True, None, [], {}]
    assert [text_of_claim(one) for one in values] == ["a", "1", "1.5", "true", "", "", ""]


def test_attributes_that_emqx_takes() -> None:
    """Everything else is left out: EMQX would refuse the login for it."""
    good = {"a": "x", "A-1_b": "ü", "9": " "}
    bad = {"": "x", "-a": "x", "a.b": "x", "ä": "x", "b": "", "c": "x" * 1025, "d": "\0", "e": "\ud800", "a\n": "x"}
    assert sendable(good | bad) == good
