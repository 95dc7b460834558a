"""Topic names and filters: MQTT 5's own examples, every small case against the oracle, and any text against the oracle."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.errors import Invalid
from companion.core.topics import (
    MAX_TOPIC_BYTES,
    Levels,
    check_filter,
    check_topic,
    covers,
    matches,
    overlaps,
    split_share,
)
from tests.support import oracle
from tests.support.hypo import any_text, examples, filters, topics
from tests.support.policies import SMALL

Relation = Callable[[Levels, Levels], bool]

TINY = oracle.Universe(("a", "$x"), depth=2)


def levels(text: str) -> Levels:
    return tuple(text.split("/"))


MATCHES = [
    # MQTT 5 §4.7.1.2: the multi-level wildcard takes the parent level too.
    ("sport/tennis/player1/#", "sport/tennis/player1", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
    ("sport/tennis/player1/#", "sport/tennis/player2", False),
    ("sport/tennis/player1/#", "sport/tennis/player10", False),
    ("sport/tennis/player1/#", "sport/tennis", False),
    ("sport/#", "sport", True),
    ("#", "sport", True),
    ("#", "/", True),
    # §4.7.1.3: the single-level wildcard takes exactly one level, which may be empty.
    ("sport/tennis/+", "sport/tennis/player1", True),
    ("sport/tennis/+", "sport/tennis/player2", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False),
    ("sport/+", "sport", False),
    ("sport/+", "sport/", True),
    ("+/tennis/#", "sport/tennis", True),
    ("sport/+/player1", "sport/tennis/player1", True),
    ("+/+", "/finance", True),
    ("/+", "/finance", True),
    ("+", "/finance", False),
    # §4.7.2: no wildcard in the first level takes a topic that begins with `$`; below the first level `$` is a character.
    ("#", "$SYS/monitor/Clients", False),
    ("#", "$SYS", False),
    ("+", "$SYS", False),
    ("+/#", "$SYS/monitor", False),
    ("+/monitor/Clients", "$SYS/monitor/Clients", False),
    ("$SYS/#", "$SYS/monitor/Clients", True),
    ("$SYS/#", "$SYS", True),
    ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
    ("+/monitor", "a$b/monitor", True),
    ("a/+", "a/$SYS", True),
    ("a/#", "a/$SYS/b", True),
    ("+/a", "/a", True),
    # §4.7.3: case and every slash count; no character is special but / + # and a leading $.
    ("ACCOUNTS", "Accounts", False),
    ("finance", "/finance", False),
    ("finance", "finance/", False),
    ("Accounts payable", "Accounts payable", True),
    ("a.c", "abc", False),
    ("a/*", "a/b", False),
    ("a\nb/+", "a\nb/c\nd", True),
]


@pytest.mark.parametrize("judge", [matches, oracle.matches], ids=["core", "oracle"])
@pytest.mark.parametrize(("topic_filter", "topic", "expected"), MATCHES)
def test_matches_in_the_words_of_the_standard(
    judge: Relation, topic_filter: str, topic: str, *, expected: bool
) -> None:
    """The examples of MQTT 5 §4.7 hold, for the core and for the oracle that judges it."""
    assert judge(check_filter(topic_filter), check_topic(topic)) is expected


COVERS = [
    ("#", "#", True),
    ("#", "+/#", True),
    ("+/#", "#", True),
    ("+/#", "a", True),
    ("+/+/#", "#", False),
    ("+", "#", False),
    ("#", "+", True),
    ("a/#", "a", True),
    ("a/#", "a/#", True),
    ("a/#", "a/+/#", True),
    ("a/+/#", "a/#", False),
    ("a/+/#", "a", False),
    ("a/+/#", "a/b", True),
    ("a/+", "a/#", False),
    ("a/#", "a/+", True),
    ("a/+/c", "a/b/c", True),
    ("a/b/c", "a/+/c", False),
    ("a/+/c", "a/b/#", False),
    ("+/b", "a/#", False),
    ("#", "$SYS/#", False),
    ("+/#", "$SYS/#", False),
    ("$SYS/#", "#", False),
    ("$SYS/#", "$SYS/a/+", True),
    ("$SYS/+", "$SYS/#", False),
    ("a/+", "a/$SYS", True),
]


@pytest.mark.parametrize("judge", [covers, oracle.covers], ids=["core", "oracle"])
@pytest.mark.parametrize(("wide", "narrow", "expected"), COVERS)
def test_covers_by_name(judge: Relation, wide: str, narrow: str, *, expected: bool) -> None:
    """The pairs that people get wrong: `+` and `#`, the parent of `#`, and `$` topics."""
    assert judge(check_filter(wide), check_filter(narrow)) is expected


OVERLAPS = [
    ("#", "#", True),
    ("#", "a/b/c", True),
    ("#", "$SYS/#", False),
    ("+/#", "$SYS", False),
    ("$SYS/#", "$SYS/+/a", True),
    ("a/#", "a", True),
    ("a/#", "a/+/c", True),
    ("a/#", "b/#", False),
    ("a/+", "+/b", True),
    ("a/+", "a", False),
    ("a/+/#", "a", False),
    ("a/+/#", "a/#", True),
    ("a/+", "a/b/c", False),
    ("+/x/#", "a/+", True),
    ("a/b", "a/c", False),
]


@pytest.mark.parametrize("judge", [overlaps, oracle.overlaps], ids=["core", "oracle"])
@pytest.mark.parametrize(("one", "other", "expected"), OVERLAPS)
def test_overlaps_by_name(judge: Relation, one: str, other: str, *, expected: bool) -> None:
    """Filters overlap when a topic is in both, whichever stands first."""
    assert judge(check_filter(one), check_filter(other)) is expected
    assert judge(check_filter(other), check_filter(one)) is expected


def test_matches_every_small_case() -> None:
    """The core and the oracle agree on every filter of up to three levels and every topic of up to four."""
    for one in SMALL.filters:
        assert [topic for topic in SMALL.topics if matches(one, topic)] == SMALL.matched(one), one


@pytest.mark.parametrize("relation", ["covers", "overlaps"])
def test_relations_every_small_pair(relation: str) -> None:
    """The core and the oracle agree on every pair of filters of up to three levels."""
    core: Relation = {"covers": covers, "overlaps": overlaps}[relation]
    expected: Relation = getattr(SMALL, relation)
    wrong = [pair for pair in product(SMALL.filters, repeat=2) if core(*pair) is not expected(*pair)]
    assert wrong == []


def test_the_two_oracles_agree() -> None:
    """The universe of an alphabet and the universe made for two filters give the same answers for every pair."""
    for pair in product(TINY.filters, repeat=2):
        assert TINY.covers(*pair) is oracle.covers(*pair), pair
        assert TINY.overlaps(*pair) is oracle.overlaps(*pair), pair


def test_the_empty_name_only_makes_the_core_more_careful() -> None:
    """Nobody can publish to the empty name; leaving it out changes these few pairs, each towards a yes that the core denies."""
    without = [oracle.EMPTY_NAME]
    pairs = list(product(SMALL.filters, repeat=2))
    more = [pair for pair in pairs if not covers(*pair) and SMALL.covers(*pair, without=without)]
    fewer = [pair for pair in pairs if overlaps(*pair) and not SMALL.overlaps(*pair, without=without)]
    assert sorted(more) == sorted([(levels("/+/#"), levels("/#")), (levels("+/+/#"), levels("/#"))])
    assert sorted(fewer) == sorted([(levels("+"), levels("/#")), (levels("/#"), levels("+"))])
    assert all(SMALL.covers(*pair, without=without) for pair in pairs if covers(*pair))
    assert all(overlaps(*pair) for pair in pairs if SMALL.overlaps(*pair, without=without))


@examples(500)
@given(filters(), topics())
def test_matches_as_the_oracle_does(topic_filter: Levels, topic: Levels) -> None:
    """Any filter and any topic: the regular expression says the same."""
    assert matches(topic_filter, topic) is oracle.matches(topic_filter, topic)


@examples(300)
@given(filters(4), filters(4))
def test_covers_and_overlaps_as_the_oracle_does(one: Levels, other: Levels) -> None:
    """Any two filters, of any characters: looking at every topic that matters says the same."""
    assert covers(one, other) is oracle.covers(one, other)
    assert overlaps(one, other) is oracle.overlaps(one, other)


@examples(300)
@given(filters(), filters(), topics())
def test_algebra_of_two(one: Levels, other: Levels, topic: Levels) -> None:
    """Covers is reflexive and implies an overlap, overlaps is symmetric, and a topic is a filter that matches itself alone."""
    assert covers(one, one)
    assert overlaps(one, one)
    assert overlaps(one, other) is overlaps(other, one)
    assert overlaps(one, other) or not covers(one, other)
    assert matches(one, topic) is covers(one, topic) is overlaps(one, topic)


def test_covers_is_transitive() -> None:
    """What covers a filter covers all that this filter covers, and overlaps whatever overlaps it: every small triple."""
    covered = {wide: [narrow for narrow in SMALL.filters if covers(wide, narrow)] for wide in SMALL.filters}
    touched = {one: {other for other in SMALL.filters if overlaps(one, other)} for one in SMALL.filters}
    for wide, narrows in covered.items():
        for narrow in narrows:
            assert set(covered[narrow]) <= set(narrows), (wide, narrow)
            assert touched[narrow] <= touched[wide], (wide, narrow)


@pytest.mark.parametrize(
    "text", ["#", "+", "sport/tennis/#", "+/tennis/#", "sport/+/player1", "/", "//", "/#", "$SYS/#", " "]
)
def test_valid_filters(text: str) -> None:
    """What MQTT 5 §4.7.1 calls valid comes back as its levels."""
    assert check_filter(text) == levels(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one character"),
        ("sport/tennis#", "# stands alone"),
        ("sport/tennis/#/ranking", "# stands alone"),
        ("#/", "# stands alone"),
        ("##", "# stands alone"),
        ("+#", "# stands alone"),
        ("sport+", "+ stands alone"),
        ("++", "+ stands alone"),
        ("a/b+/c", "+ stands alone"),
        ("a\0b", "NUL"),
        ("a/\udc80", "surrogates"),
        ("x" * (MAX_TOPIC_BYTES + 1), "at most 65535 bytes"),
    ],
)
def test_invalid_filters(text: str, said: str) -> None:
    """Each fault is named with its field and with what would be right."""
    with pytest.raises(Invalid) as caught:
        check_filter(text, "rules[2].filter")
    assert caught.value.field == "rules[2].filter"
    assert said in caught.value.allowed


@pytest.mark.parametrize("text", ["", "+", "#", "a/+", "a/#", "a#", "a+b", "\0", "\ud800", "é" * 32_768])
def test_invalid_names(text: str) -> None:
    """A topic name holds no wildcard, not even one that a filter may hold."""
    with pytest.raises(Invalid) as caught:
        check_topic(text, "topic")
    assert caught.value.field == "topic"


@pytest.mark.parametrize("check", [check_topic, check_filter])
@pytest.mark.parametrize("unit", ["x", "é", "€", "🦔", "/"])
def test_the_limit_counts_bytes_of_utf8(check: Callable[[str], Levels], unit: str) -> None:
    """Exactly 65,535 bytes of UTF-8 pass, one more does not, however many characters that is."""
    many, rest = divmod(65_535, len(unit.encode()))
    longest = unit * many + "x" * rest
    assert check(longest) == levels(longest)
    with pytest.raises(Invalid, match="this has 65536"):
        check(longest + "x")


@examples(500)
@given(any_text())
def test_validity_as_the_grammar_says(text: str) -> None:
    """Any text is a name or a filter exactly when the grammar says so; otherwise `Invalid` is raised and nothing else."""
    for check, expected in ((check_topic, oracle.is_name(text)), (check_filter, oracle.is_filter(text))):
        if expected:
            assert "/".join(check(text)) == text
        else:
            with pytest.raises(Invalid):
                check(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", (None, "a/b")),
        ("$share/g/a/b", ("g", "a/b")),
        ("$share/g//", ("g", "/")),
        ("$share/g/#", ("g", "#")),
        ("$share/$g/$SYS/#", ("$g", "$SYS/#")),
        ("$shared/g/a", (None, "$shared/g/a")),
        ("$SHARE/g/a", (None, "$SHARE/g/a")),
        ("a/$share/g/a", (None, "a/$share/g/a")),
        ("", (None, "")),
    ],
)
def test_split_share(text: str, expected: tuple[str | None, str]) -> None:
    """A shared subscription is told from all that merely looks like one (MQTT 5 §4.8.2)."""
    assert split_share(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "$share",
        "$share/",
        "$share//",
        "$share//a",
        "$share/g",
        "$share/g/",
        "$share/+/a",
        "$share/#/a",
        "$share/g+/a",
        "$share/#",
    ],
)
def test_split_share_refuses(text: str) -> None:
    """A shared subscription without a usable group or without a filter is named as what it is."""
    with pytest.raises(Invalid, match="shared subscription") as caught:
        split_share(text, "topic")
    assert caught.value.field == "topic"


@examples(300)
@given(st.text(st.characters(codec="utf-8", exclude_characters="/+#\0"), min_size=1, max_size=5), filters())
def test_split_share_takes_apart_what_was_put_together(group: str, inner: Levels) -> None:
    """Group and filter come back as they went in."""
    rest = "/".join(inner)
    assert split_share(f"$share/{group}/{rest}") == (group, rest)
