"""Rule sets from files: what they hold, whom they are for, and how a mistake is told."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.errors import Invalid
from companion.core.policy import OWN_TOPICS
from companion.core.rule_sets import RuleBook, RuleSet, parse_rule_set
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from companion.core.windows import Window
from companion.rule_files import read_rule_book, read_rule_set
from tests.support.hypo import any_text, examples
from tests.support.service import make_settings

WHOLE = """
stored = false

[[rules]]
id = "porters at night"
subject = "group:porters"
effect = "allow"
action = "publish"
filter = "doors/${username}/#"
qos = [0, 1]
retain = false
windows = [{ cron = "0 22 * * *", duration = 28800, timezone = "Europe/Berlin" }]
locations = ["10.0.0.0/8"]

[[rules]]
subject = "everyone"
effect = "deny"
action = "all"
filter = "secret/#"
qos = 2
"""

RULE = 'subject = "everyone"\neffect = "allow"\naction = "all"\nfilter = "a"\n'


def parsed(text: str) -> RuleSet:
    return parse_rule_set(text, "rules_file", "file")


def test_every_field() -> None:
    """A file says all that a rule can; a rule without an id has its number."""
    found = parsed(WHOLE)
    assert found.stored is False
    assert found.rules == (
        Rule(
            "group:porters",
            Effect.ALLOW,
            RuleAction.PUBLISH,
            "doors/${username}/#",
            frozenset({0, 1}),
            retain=False,
            id="file:porters at night",
            windows=(Window("0 22 * * *", 28_800, "Europe/Berlin"),),
            locations=("10.0.0.0/8",),
        ),
        Rule(EVERYONE, Effect.DENY, RuleAction.ALL, "secret/#", frozenset({2}), id="file:2"),
    )


def test_whom_it_holds_for() -> None:
    """The rules of the subjects come beside those of the store or without them, and own topics always; a copy is the same."""
    stored = [Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "stored", id="7")]
    whole = parsed(WHOLE)
    porters, secret = whole.rules
    assert whole.of([EVERYONE, "group:porters", EVERYONE], stored) == (secret, porters, *OWN_TOPICS)
    assert whole.of(["group:others"], stored) == OWN_TOPICS
    beside = RuleSet(whole.rules)
    assert beside.of([EVERYONE], stored) == (*stored, secret, *OWN_TOPICS)
    assert beside != whole
    book = pickle.loads(pickle.dumps(RuleBook(beside, whole)))  # noqa: S301 - our own
    assert book == RuleBook(beside, whole)
    assert book.enforced.of([EVERYONE], stored) == beside.of([EVERYONE], stored)


@pytest.mark.parametrize("text", ["", "stored = true", "rules = []"])
def test_a_file_without_rules(text: str) -> None:
    """Nothing is added to what the store has."""
    assert parsed(text) == RuleSet()


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("rules = ", "rules_file", "valid TOML"),
        ("rules = 7", "rules_file.rules", "tables"),
        ("rules = [7]", "rules_file.rules[1].rule", "a table"),
        ("stored = 1", "rules_file.stored", "true or false"),
        ("rule = []", "rules_file.rule", "stored, rules"),
        (f"[[rules]]\n{RULE}[[rules]]\n{RULE}priority = 1", "rules_file.rules[2].priority", "the fields of a rule"),
        (f'[[rules]]\nid = "x"\n{RULE}[[rules]]\nid = "x"\n{RULE}', "rules_file.rules[2].id", "each id once"),
        (f'[[rules]]\nid = "2"\n{RULE}[[rules]]\n{RULE}', "rules_file.rules[2].id", "each id once"),
        (f'[[rules]]\nid = ""\n{RULE}', "rules_file.rules[1].id", "1 to 200"),
        (f"[[rules]]\nid = 7\n{RULE}", "rules_file.rules[1].id", "a text"),
        ('[[rules]]\nsubject = "everyone"', "rules_file.rules[1].effect", "a text"),
        ("[[rules]]\n" + RULE.replace("allow", "permit"), "rules_file.rules[1].effect", "one of allow, deny"),
        ("[[rules]]\n" + RULE.replace('"all"', '"read"'), "rules_file.rules[1].action", "one of publish"),
        ("[[rules]]\n" + RULE.replace("everyone", "nobody"), "rules_file.rules[1].subject", "a subject is"),
        ("[[rules]]\n" + RULE.replace("everyone", "grants:a@b"), "rules_file.rules[1].subject", "a subject is"),
        ("[[rules]]\n" + RULE.replace('"a"', '"a#"'), "rules_file.rules[1].filter", "# stands alone"),
        (f"[[rules]]\n{RULE}qos = []", "rules_file.rules[1].qos", "one or more"),
        (f"[[rules]]\n{RULE}qos = [true]", "rules_file.rules[1].qos", "one or more"),
        (f'[[rules]]\n{RULE}retain = "yes"', "rules_file.rules[1].retain", "true or false"),
        (f'[[rules]]\n{RULE}windows = [{{cron = "x"}}]', "rules_file.rules[1].windows[0].duration", "whole seconds"),
        (f'[[rules]]\n{RULE}locations = ["x"]', "rules_file.rules[1].locations[0]", "an address"),
    ],
)
def test_a_mistake_is_named(text: str, field: str, said: str) -> None:
    """By the file's setting, the number of the rule and the field."""
    with pytest.raises(Invalid, match="is not allowed") as refused:
        parsed(text)
    assert refused.value.field == field
    assert said in refused.value.allowed


@examples(300)
@given(any_text() | st.text(st.sampled_from('[]{}="\n rules.#'), max_size=40))
def test_any_text_is_a_rule_set_or_a_mistake(text: str) -> None:
    """Nothing that stands in a file raises anything else."""
    with contextlib.suppress(Invalid):
        parsed(text)


def test_files(tmp_path: Path) -> None:
    """Both files are read, each under its own name; without them there is nothing beside the store."""
    enforced, shadow = tmp_path / "rules.toml", tmp_path / "shadow.toml"
    enforced.write_text(f"[[rules]]\n{RULE}")
    shadow.write_text(WHOLE)
    assert read_rule_book(make_settings(tmp_path)) == RuleBook()
    book = read_rule_book(make_settings(tmp_path, rules_file=enforced, rules_shadow_file=shadow))
    assert [rule.id for rule in book.enforced.rules] == ["file:1"]
    assert book.shadow is not None
    assert [rule.id for rule in book.shadow.rules] == ["shadow:porters at night", "shadow:2"]


@pytest.mark.parametrize("content", [None, b"\xff", b"# " + b"x" * (32 * 1024 * 1024)])
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    """One that is missing, no UTF-8 or far too long is named with its setting."""
    path = tmp_path / "rules.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Invalid, match="rules_shadow_file") as refused:
        read_rule_set(path, "rules_shadow_file", "shadow")
    assert refused.value.field == "rules_shadow_file"
