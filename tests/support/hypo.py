"""How the property tests run, and the values they are given.

Hypothesis makes runs repeatable by itself where it finds a CI system (`CI` in the environment); elsewhere each run explores anew.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from companion.core.topics import Levels
from tests.support.oracle import EMPTY_NAME

WIDE_TEXT = st.characters(exclude_categories=())
"""Every code point, lone surrogates included."""

PIECES = (
    "a",
    "b",
    "/",
    "+",
    "#",
    "$",
    "%",
    "$share/",
    "$SYS",
    "${username}",
    "{",
    "}",
    "\0",
    "\n",
    "\x7f",
    "\ud800",
    "é",
    "🦔",
)
"""What hostile text is made of."""


def examples(count: int) -> settings:
    """Return settings for `count` examples without any limit in time: machines are slow at times, and that is no failure."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def many_examples(count: int) -> settings:
    """Return settings for as many examples as COMPANION_TEST_EXAMPLES says, or for `count`."""
    return examples(int(os.environ.get("COMPANION_TEST_EXAMPLES", count)))


def any_text() -> st.SearchStrategy[str]:
    """Return text that somebody might send: anything at all, often made of what means something to MQTT or to our templates."""
    return st.text(st.one_of(st.sampled_from(PIECES[:6]), WIDE_TEXT), max_size=12) | st.lists(
        st.sampled_from(PIECES), max_size=8
    ).map("".join)


def literals() -> st.SearchStrategy[str]:
    """Return valid literal levels: mostly few ones that meet each other, sometimes any text."""
    free = st.text(st.characters(codec="utf-8", exclude_characters="/+#\0"), max_size=4)
    return st.one_of(st.sampled_from(("a", "b", "", "$x", "$", "~", "$~")), free)


def topics(max_depth: int = 5) -> st.SearchStrategy[Levels]:
    """Return the levels of valid topic names."""
    return st.lists(literals(), min_size=1, max_size=max_depth).map(tuple).filter(lambda levels: levels != EMPTY_NAME)


def filters(max_depth: int = 5) -> st.SearchStrategy[Levels]:
    """Return the levels of valid topic filters."""
    level = st.one_of(literals(), st.just("+"))
    closed = st.lists(level, min_size=1, max_size=max_depth).map(tuple)
    opened = st.lists(level, max_size=max_depth - 1).map(lambda levels: (*levels, "#"))
    return st.one_of(closed, opened).filter(lambda levels: levels != EMPTY_NAME)
