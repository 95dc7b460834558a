"""Templates: what a value from data can and cannot do to a topic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.errors import Invalid
from companion.core.templates import Template, escape_level
from companion.core.topics import check_filter, check_topic
from tests.support import oracle
from tests.support.hypo import PIECES, any_text, examples

NAMES = frozenset({"username", "clientid", "session"})

UNICODE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6) | st.lists(
    st.sampled_from([piece for piece in PIECES if piece != "\ud800"]), min_size=1, max_size=3
).map("".join)
"""Values as UTF-8 can carry them: what JSON and MQTT bring."""

VALUES = st.fixed_dictionaries(dict.fromkeys(sorted(NAMES), UNICODE))

LEVELS = st.sampled_from(
    ["", "a", "a$", "+", "${username}", "${clientid}", "x${session}", "${session}-y", "é${username}.z", "${clientid}$"]
)
SOURCES = st.builds(
    lambda levels, tail: "/".join((*levels, *tail)),
    st.lists(LEVELS, min_size=1, max_size=5),
    st.sampled_from([(), ("#",)]),
).filter(bool)
"""Filters with at most one placeholder in each level, none of them behind a `$` that begins the filter."""


def parse(source: str) -> Template:
    return Template.parse(source, opener="${", allowed=NAMES, field="filter")


def rendered(source: str, values: Mapping[str, str]) -> str:
    text = parse(source).render(values)
    assert text is not None
    return text


@pytest.mark.parametrize(
    "name", ["alice", "dev-1", "a.b:c@d", "Ünïcödé", "a b", "5f2b18d2c9e77b0001a1b2c3", "a$b", "{x}", "~"]
)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    """Nothing changes in a name that cannot do harm."""
    assert escape_level(name) == name


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a/b", "a%2Fb"),
        ("+", "%2B"),
        ("#", "%23"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("$SYS", "%24SYS"),
        ("$$", "%24$"),
        ("a\0b", "a%00b"),
        ("\n\x1f\x7f", "%0A%1F%7F"),
        ("\x85", "%C2%85"),
        ("\n$", "%0A$"),
        ("", ""),
    ],
)
def test_what_is_escaped(value: str, expected: str) -> None:
    """Exactly the separators, the wildcards, the escape itself, control characters and a leading `$`, as percent-encoded UTF-8."""
    assert escape_level(value) == expected


@examples(250)
@given(any_text())
def test_escaping_loses_nothing(value: str) -> None:
    """The standard library's decoder gives back the value, so no two values give the same text."""
    assert unquote(escape_level(value)) == value


@examples(250)
@given(any_text())
def test_an_escaped_value_is_one_plain_level(value: str) -> None:
    """Whatever the value, its text holds no separator, wildcard or control character and does not begin with `$`."""
    escaped = escape_level(value)
    assert not escaped.startswith("$")
    assert not set(escaped) & {"/", "+", "#", *map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))}
    assert bool(escaped) is bool(value)


@examples(250)
@given(SOURCES, VALUES)
def test_rendering_keeps_the_shape(source: str, values: dict[str, str]) -> None:
    """With any values the result is a valid filter with the levels and wildcards of the template, and does not begin with `$`."""
    text = rendered(source, values)
    assert oracle.is_filter(text)
    shape = source.split("/")
    for wanted, level in zip(shape, check_filter(text), strict=True):
        assert (wanted in ("+", "#")) == (level in ("+", "#"))
        assert ("${" in wanted) or level == wanted
    assert not text.startswith("$")


@examples(250)
@given(st.data(), SOURCES, VALUES)
def test_rendering_is_injective(data: st.DataObject, source: str, values: dict[str, str]) -> None:
    """Two principals that differ in a value the template names never share its topic."""
    others = values | data.draw(st.dictionaries(st.sampled_from(sorted(NAMES)), UNICODE))
    named = parse(source).names
    same = all(values[name] == others[name] for name in named)
    assert (rendered(source, values) == rendered(source, others)) is same


@pytest.mark.parametrize(
    "hostile", ["+", "#", "a/b", "a/#", "$SYS", "$share/g/a", "\0", "%", "/", "${clientid}", "../x"]
)
@pytest.mark.parametrize(
    "source", ["${username}", "${username}/x", "t/${username}", "t/${username}/x", "t-${username}/x"]
)
def test_hostile_values_end_up_as_a_name(source: str, hostile: str) -> None:
    """A value made of separators, wildcards, `$`, NUL or a placeholder is a part of one level of a valid topic name."""
    text = rendered(source, {"username": hostile, "clientid": "secret"})
    assert len(check_topic(text)) == len(source.split("/"))
    assert "secret" not in text
    assert not text.startswith("$")


@pytest.mark.parametrize("values", [{}, {"username": ""}, {"clientid": "c"}])
def test_nothing_is_rendered_without_a_value(values: dict[str, str]) -> None:
    """A missing or empty value gives no text at all: an empty level would be somebody else's topic."""
    assert parse("t/${username}/${clientid}").render(values) is None


@pytest.mark.parametrize("source", ["a/b", "", "a/+/#", "$SYS/#", "a$b"])
def test_text_without_placeholders_is_itself(source: str) -> None:
    """A template that names nothing renders as it stands, whatever values there are."""
    assert parse(source).render({}) == parse(source).render({"username": "x"}) == source
    assert parse(source).widen({}) == source


@pytest.mark.parametrize(
    ("source", "values", "expected"),
    [
        ("t/${username}/x", {}, "t/+/x"),
        ("t/${username}/x", {"username": ""}, "t/+/x"),
        ("t/${username}/x", {"username": "a/b"}, "t/a%2Fb/x"),
        ("${username}/${clientid}/#", {"clientid": "c"}, "+/c/#"),
        ("t/x-${username}-y", {}, "t/+"),
        ("t/${username}/x-${clientid}", {"username": "u"}, "t/u/+"),
        ("${username}", {}, "+"),
        ("t/${username}", {"username": "\0"}, "t/%00"),
    ],
)
def test_widen(source: str, values: dict[str, str], expected: str) -> None:
    """Each level that misses a value becomes `+`, and only such a level."""
    assert parse(source).widen(values) == expected


@examples(250)
@given(SOURCES, VALUES, st.sets(st.sampled_from(sorted(NAMES))))
def test_widen_covers_every_rendering(source: str, values: dict[str, str], missing: set[str]) -> None:
    """Whatever the missing values turn out to be, the widened filter takes all that the rendered one takes."""
    known = {name: value for name, value in values.items() if name not in missing}
    template = parse(source)
    wide, narrow = template.widen(known), rendered(source, values)
    assert oracle.covers(check_filter(wide), check_filter(narrow))
    assert missing.intersection(template.names) or wide == narrow


@examples(250)
@given(any_text())
def test_parse_takes_apart_or_refuses(source: str) -> None:
    """Any text is levels of text without braces, each with one placeholder at the most, or refused with the field's name."""
    placeholder = rf"\$\{{(?:{'|'.join(sorted(NAMES))})\}}"
    level = rf"[^{{}}/]*(?:{placeholder}[^{{}}/]*)?"
    if re.fullmatch(rf"{level}(?:/{level})*", source):
        template = parse(source)
        assert template.source == source
        assert template.render(dict.fromkeys(NAMES, "v")) == re.sub(r"\$\{\w+\}", "v", source)
    else:
        with pytest.raises(Invalid) as caught:
            parse(source)
        assert caught.value.field == "filter"


@pytest.mark.parametrize(
    "source",
    [
        "${",
        "${}",
        "${username",
        "a/${nobody}/b",
        "${USERNAME}",
        "${ username}",
        "${user${name}}",
        "{username}",
        "username}",
        "${username}}",
        "{${username}",
        "${username}/${nobody}",
    ],
)
def test_parse_names_the_field(source: str) -> None:
    """An unknown name and a brace that is no placeholder are refused, with the field and the placeholders that exist."""
    with pytest.raises(Invalid) as caught:
        Template.parse(source, opener="${", allowed=NAMES, field="rules[1].filter")
    assert caught.value.field == "rules[1].filter"
    assert "${clientid}" in caught.value.allowed


def test_another_opener() -> None:
    """With the opener `{` a `$` before a placeholder is text, and names are as strict."""
    template = Template.parse("db/{owner}/x${id}", opener="{", allowed=frozenset({"owner", "id"}), field="topics.owner")
    assert template.names == ("owner", "id")
    assert template.render({"owner": "a+b", "id": "$7"}) == "db/a%2Bb/x$%247"
    with pytest.raises(Invalid, match=r"topics\.owner: .*\{id\}, \{owner\}"):
        Template.parse("db/{group}", opener="{", allowed=frozenset({"owner", "id"}), field="topics.owner")


@pytest.mark.parametrize("source", ["${username}${clientid}", "a/${username}-${clientid}/b"])
def test_two_placeholders_do_not_share_a_level(source: str) -> None:
    """(`a`, `b-c`) and (`a-b`, `c`) would make one level of `${username}-${clientid}`."""
    with pytest.raises(Invalid, match="at most one placeholder in a level"):
        Template.parse(source, opener="${", allowed=NAMES, field="filter")
