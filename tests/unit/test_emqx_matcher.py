"""The model of EMQX's matcher does what a running EMQX 5.8.9 did."""

from __future__ import annotations

import json

import pytest

from tests.support.emqx_matcher import LoginRefused, decide, read, stripped
from tests.support.recording import recorded_requests

CLIENT = {"username": "alice", "clientid": "c1"}


def listed(*rules: str) -> bytes:
    """Return the list of rules written as `allow a/+`, closed as in the observations."""
    lines = [dict(zip(("permission", "topic"), rule.split(" ", 1), strict=True)) for rule in rules]
    closing = [{"permission": "deny", "topic": topic} for topic in ("#", "$SYS/#")]
    return json.dumps([{"action": "all", **line} for line in lines + closing]).encode()


OBSERVED = [
    (["allow a/+"], "a/#", "allow"),
    (["allow +"], "#", "allow"),
    (["allow $SYS/+"], "$SYS/#", "allow"),
    (["allow +/x/+"], "q/x/#", "allow"),
    (["allow a/+"], "$share/g/a/#", "allow"),
    (["deny eq a/#", "allow a/+"], "a/#", "deny"),
    (["deny eq a/#", "allow a/+"], "a/+", "allow"),
    (["allow a/+"], "a/+/#", "deny"),
    (["allow a/+/b"], "a/#", "deny"),
    (["allow a/+/b"], "a/+/#", "deny"),
    (["deny a/b", "allow a/#"], "a/#", "allow"),
    (["deny a/b", "allow a/#"], "a/+", "allow"),
    (["allow #"], "$SYS/#", "deny"),
]
"""The table of what was observed: rules in order, what was subscribed to, what came back."""


@pytest.mark.parametrize(("rules", "wanted", "verdict"), OBSERVED)
def test_observed(rules: list[str], wanted: str, verdict: str) -> None:
    """Every row of the table."""
    lines = read(listed(*rules))
    assert decide(lines, CLIENT, "subscribe", stripped("subscribe", wanted), 0) == verdict


@pytest.mark.parametrize(
    ("action", "topic", "recorded"),
    [
        ("subscribe", "$share/g/s/+", "s/+"),
        ("subscribe", "$exclusive/e/1", "e/1"),
        ("subscribe", "a/+/c", "a/+/c"),
        ("subscribe", "x/#", "x/#"),
        ("publish", "$delayed/1/d/1", "d/1"),
        ("publish", "will/dev-7", "will/dev-7"),
    ],
)
def test_what_is_taken_off(action: str, topic: str, recorded: str) -> None:
    """What the broker asked when clients sent these topics is what the rules see."""
    asked = {(one.fields["action"], one.fields["topic"]) for one in recorded_requests() if one.hook == "authz"}
    assert (action, recorded) in asked
    assert stripped(action, topic) == recorded


@pytest.mark.parametrize(
    ("topic", "left"),
    [
        ("$queue/a", "a"),
        ("$queue/", ""),
        ("$share/g/$exclusive/a", "$exclusive/a"),
        ("$exclusive/$share/g/a", "$share/g/a"),
        ("$share/g/$delayed/1/$delayed/2/a", "a"),
        ("$delayed/1", "$delayed/1"),
        ("$delayed/x/", ""),
        ("$share/g", "$share/g"),
    ],
)
def test_what_is_left(topic: str, left: str) -> None:
    """One of the prefixes of a subscription is taken off; `$delayed` after it, and each time; the rest may be empty."""
    assert stripped("subscribe", topic) == left


def test_first_match_wins() -> None:
    """The order decides, also against a later denial; nothing that matches is nobody's verdict."""
    lines = read(listed("allow a/b", "deny a/b"))
    assert decide(lines, CLIENT, "publish", "a/b", 0) == "allow"
    assert decide(lines, CLIENT, "publish", "a/c", 0) == "deny"
    assert decide(lines, CLIENT, "publish", "$other/c", 0) is None
    assert decide([], CLIENT, "publish", "a/b", 0) is None


def test_placeholders_are_filled_in() -> None:
    """Those that EMQX knows, in filters; without a value a rule matches nothing; `eq ` compares as written."""
    lines = read(listed("allow t/${username}/${clientid}", "allow u/${cert_common_name}", "allow eq v/${username}"))
    assert decide(lines, CLIENT, "publish", "t/alice/c1", 0) == "allow"
    assert decide(lines, CLIENT, "publish", "t/${username}/${clientid}", 0) == "deny"
    assert decide(lines, CLIENT, "publish", "u/", 0) == "deny"
    assert decide(lines, CLIENT, "publish", "v/${username}", 0) == "allow"


def test_limits() -> None:
    """QoS in every spelling, and retain for publishes alone."""
    for qos in (1, "1", [1], ["1"], "1"):
        lines = read(json.dumps([{"permission": "allow", "action": "all", "topic": "t", "qos": qos}]).encode())
        assert [decide(lines, CLIENT, "publish", "t", one) for one in range(3)] == [None, "allow", None]
    lines = read(
        json.dumps([{"permission": "allow", "action": "all", "topic": "t", "qos": "0,2", "retain": True}]).encode()
    )
    assert decide(lines, CLIENT, "publish", "t", 2, retain=True) == "allow"
    assert decide(lines, CLIENT, "publish", "t", 2, retain=False) is None
    assert decide(lines, CLIENT, "subscribe", "t", 0) == "allow"


@pytest.mark.parametrize(
    "acl",
    [
        "null",
        "{}",
        '["a"]',
        '[{"permission":"allow","action":"all"}]',
        '[{"permission":"Allow","action":"all","topic":"a"}]',
        '[{"permission":"allow","action":"both","topic":"a"}]',
        '[{"permission":"allow","action":"all","topic":null}]',
        '[{"permission":"allow","action":"all","topics":[1]}]',
        '[{"permission":"allow","action":"all","topic":"a","qos":3}]',
        '[{"permission":"allow","action":"all","topic":"a","qos":true}]',
        '[{"permission":"allow","action":"all","topic":"a","retain":"yes"}]',
        '[{"permission":"allow","action":"all","topic":"eq eq a"}]',
    ],
)
def test_bad_lists(acl: str) -> None:
    """One bad rule refuses the login."""
    with pytest.raises(LoginRefused):
        read(acl.encode())
