"""Rules: which of them can be enforced, and how the others are refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from companion.core.errors import Invalid
from companion.core.model import Kind
from companion.core.rules import (
    ANY_QOS,
    EVERYONE,
    PLACEHOLDERS,
    RULE_KINDS,
    SESSION_KIND,
    Effect,
    Rule,
    RuleAction,
    check_rule,
    subject_of_account,
    subject_of_group,
    subject_of_kind,
    subject_of_tenant,
)
from companion.core.topics import check_filter, split_share
from companion.core.windows import Window
from tests.support import oracle
from tests.support.hypo import any_text, examples


def rule(filter_: str = "t/#", *, subject: str = EVERYONE, qos: frozenset[int] = ANY_QOS) -> Rule:
    return Rule(subject, Effect.ALLOW, RuleAction.ALL, filter_, qos=qos)


@pytest.mark.parametrize(
    "subject",
    [
        EVERYONE,
        *map(subject_of_kind, RULE_KINDS),
        subject_of_account("alice"),
        subject_of_account("a:b"),
        subject_of_account("kind:device"),
        subject_of_account("everyone"),
        subject_of_group("night shift"),
        subject_of_group("a:b"),
        subject_of_tenant("acme"),
        subject_of_tenant("everyone"),
    ],
)
def test_subjects(subject: str) -> None:
    """Everyone, a kind that exists and any account, group and tenant can have rules."""
    assert check_rule(rule(subject=subject)).source == "t/#"


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "alice",
        "Everyone",
        "everyone:",
        "kind:",
        "kind:robot",
        "kind:Device",
        "kind: device",
        "account:",
        ":",
        ":x",
        "group:",
        "tenant:",
        "Group:a",
        "groups:a",
        "everyone:device",
    ],
)
def test_subjects_that_nobody_is(subject: str) -> None:
    """A subject that could never be somebody is refused: a deny rule for nobody would be a hole."""
    with pytest.raises(Invalid, match="everyone, kind:") as caught:
        check_rule(rule(subject=subject))
    assert caught.value.field == "subject"


def test_every_kind_of_account_can_have_rules() -> None:
    """The kinds of rules are those of accounts and the platform session."""
    assert set(RULE_KINDS) == {*Kind, SESSION_KIND}


@pytest.mark.parametrize("qos", [{0}, {1}, {2}, {0, 1}, {0, 1, 2}])
def test_qos(qos: set[int]) -> None:
    """Any of MQTT's QoS levels can be spoken about, and a rule that names none speaks about all."""
    assert check_rule(rule(qos=frozenset(qos))).source == "t/#"
    assert Rule(EVERYONE, Effect.DENY, RuleAction.ALL, "t").qos == frozenset({0, 1, 2})


@pytest.mark.parametrize("qos", [frozenset[int](), frozenset({3}), frozenset({-1}), frozenset({0, 1, 2, 3})])
def test_qos_that_does_not_exist(qos: frozenset[int]) -> None:
    """A rule speaks about at least one QoS level, and only about those of MQTT."""
    with pytest.raises(Invalid) as caught:
        check_rule(rule(qos=qos))
    assert caught.value.field == "qos"


@pytest.mark.parametrize("name", sorted(PLACEHOLDERS))
def test_placeholders(name: str) -> None:
    """Each placeholder that is offered is understood, wherever it stands."""
    assert check_rule(rule(f"${{{name}}}/x-${{{name}}}/#")).names == (name, name)


@pytest.mark.parametrize(
    "text", ["#", "+", "+/#", "/", "//+", "a/+/b", "$SYS/#", "a b/é", "$shared/g/a", "a/$share/b", "eq/a"]
)
def test_filters(text: str) -> None:
    """Any valid filter can be the filter of a rule, those of the broker's own topics too."""
    assert check_rule(rule(text)).render({}) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one character"),
        ("a#", "# stands alone"),
        ("#/a", "# stands alone"),
        ("a/b+", "+ stands alone"),
        ("${username}+", "+ stands alone"),
        ("+${username}", "+ stands alone"),
        ("a/${username}#", "# stands alone"),
        ("#${username}", "# stands alone"),
        ("a/#/${username}", "# stands alone"),
        ("a\0b", "NUL"),
        ("a/${username}\0", "NUL"),
        ("a/\ud800", "surrogates"),
        ("x" * 65_536, "65535"),
        ("$share/g/a", "also holds for its shared subscriptions"),
        ("$share/g/${username}", "also holds for its shared subscriptions"),
        ("$share", "$share/{group}/{filter}"),
        ("$share/g", "$share/{group}/{filter}"),
        ("$share/+/a", "$share/{group}/{filter}"),
        ("${nobody}/a", "the placeholders are"),
        ("${password}", "the placeholders are"),
        ("a/${username", "the placeholders are"),
        ("a/{username}", "braces only in placeholders"),
        ("a/%u}", "braces only in placeholders"),
        ("a/${username}-${clientid}", "at most one placeholder in a level"),
        ("eq a/#", "no `eq `"),
    ],
)
def test_filters_that_cannot_be_enforced(text: str, said: str) -> None:
    """Each is refused with the name of the field and with what would be right."""
    with pytest.raises(Invalid) as caught:
        check_rule(rule(text))
    assert caught.value.field == "filter"
    assert said in caught.value.allowed


@pytest.mark.parametrize("text", ["$${username}/#", "$S${username}/#", "$SYS${username}", "$share${username}/g/a"])
def test_no_value_may_complete_a_topic_of_the_broker(text: str) -> None:
    """A placeholder behind a leading `$` is refused: its value would choose among `$` topics, which no widened `+` could deny."""
    with pytest.raises(Invalid) as caught:
        check_rule(rule(text))
    assert caught.value.field == "filter"


@pytest.mark.parametrize(
    "text", ["$SYS/${username}/#", "a$${username}", "a/$${username}", "${username}$", "${username}/$${clientid}"]
)
def test_a_dollar_elsewhere_is_text(text: str) -> None:
    """Below the first level and behind another character `$` means nothing, so placeholders may follow it."""
    assert check_rule(rule(text)).source == text


@examples(400)
@given(any_text())
def test_a_rule_is_either_enforceable_or_refused(text: str) -> None:
    """Any text as a filter: `Invalid` for `filter`, or a template that renders to a valid filter of the same shape."""
    plain = re.sub(r"\$\{(?:username|clientid|principal|session)\}", "x", text)
    shared = text == "$share" or text.startswith("$share/")
    reserved = re.match(r"\$(?!\{)[^/]*\$\{|eq ", text)
    crowded = any(level.count("${") > 1 for level in text.split("/"))
    if oracle.is_filter(plain) and not set("{}") & set(plain) and not (shared or reserved or crowded):
        result = check_rule(rule(text)).render(dict.fromkeys(PLACEHOLDERS, "a/+"))
        assert result is not None
        assert check_filter(result) == tuple(re.sub(r"\$\{\w+\}", "a%2F%2B", text).split("/"))
        assert split_share(result) == (None, result)
    else:
        with pytest.raises(Invalid) as caught:
            check_rule(rule(text))
        assert caught.value.field == "filter"


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"windows": (Window("0 8 * *", 60),)}, "windows[0].cron", "0 8"),
        ({"windows": (Window("0 8 * * *", 60), Window("0 8 * * *", 0))}, "windows[1].duration", "0"),
        ({"windows": (Window("0 8 * * *", 60, "Mars"),)}, "windows[0].timezone", "Mars"),
        ({"windows": (Window("* * * * *", 1),) * 101}, "windows", "more than 100"),
        ({"locations": ("10.0.0.0/33",)}, "locations[0]", "10.0.0.0/33"),
        ({"locations": ("10.0.0.1", "10.0.0.1/8")}, "locations[1]", "10.0.0.1/8"),
        ({"locations": ("10.0.0.1",) * 1001}, "locations", "more than 1000"),
    ],
)
def test_conditions_that_cannot_be_understood(changes: dict[str, Any], field: str, value: str) -> None:
    """A window or a location that says nothing clear is named, with its value."""
    with pytest.raises(Invalid) as caught:
        check_rule(replace(rule(), **changes))
    assert caught.value.field == field
    assert value in caught.value.value


def test_what_is_conditional() -> None:
    """A rule is marked that holds at some times or in some places only; limits of QoS and retain are no condition."""
    assert not rule(qos=frozenset({1})).conditional
    assert not replace(rule(), retain=True).conditional
    assert replace(rule(), windows=(Window("0 8 * * *", 60),)).conditional
    assert replace(rule(), locations=("10.0.0.0/8",)).conditional
