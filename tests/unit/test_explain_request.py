"""Questions to be explained: what is one, and what is told of the others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_hooks.explain_request import asked, moment
from companion.core.errors import Invalid
from companion.core.model import Access, Action
from tests.support.hypo import any_text, examples

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text() | st.sampled_from(("publish", "subscribe")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text(), inner, max_size=3),
    max_leaves=4,
)
NAMES = st.sampled_from(("username", "clientid", "action", "topic", "qos", "retain", "peerhost", "at")) | any_text()


@examples(400)
@given(VALUES | st.dictionaries(NAMES, VALUES, max_size=9))
def test_anything_is_a_question_or_a_mistake(body: Any) -> None:
    """Whatever is sent, there is a request with a time that exists, or one field that is named."""
    try:
        access, at = asked(body)
    except Invalid as problem:
        told = problem.field
    else:
        told = ""
        assert access.qos in (None, 0, 1, 2)
        assert access.action in set(Action)
        assert at is None or 0 <= at < 253_402_300_800
    assert isinstance(told, str)


def test_a_whole_question() -> None:
    """Every field has its place; what is missing is not known."""
    body = {
        "username": "alice",
        "clientid": "c",
        "action": "publish",
        "topic": "t",
        "qos": 1,
        "retain": False,
        "peerhost": "10.0.0.1",
        "at": "1970-01-02T00:00:00+00:00",
    }
    assert asked(body) == (Access(Action.PUBLISH, "t", "c", "alice", "10.0.0.1", 1, retain=False), 86_400.0)
    assert asked({"action": "subscribe"}) == (Access(Action.SUBSCRIBE, ""), None)


@pytest.mark.parametrize(
    "value",
    [
        "noon",
        "2026-11-25",
        "2026-11-25T12:00:00",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        -1,
        1e18,
        True,
    ],
)
def test_times_that_are_none(value: object) -> None:
    """A time needs its zone, and has to lie where calendars reach."""
    with pytest.raises(Invalid, match="a time with a zone"):
        moment(value, "at")
