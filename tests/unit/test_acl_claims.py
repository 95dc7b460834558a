"""EMQX's claim `acl` as rules."""

from __future__ import annotations

import json
from typing import Any

import pytest

from companion.core.acl_claims import NO_CLAIM, AclClaim, acl_in_session, rules_of_claim
from companion.core.errors import Invalid
from companion.core.rules import ANY_QOS, Rule


def short(rule: Rule) -> tuple[Any, ...]:
    return rule.effect.value, rule.action.value, rule.filter, sorted(rule.qos), rule.retain


ANY = sorted(ANY_QOS)


def test_the_old_format() -> None:
    """Three lists of what is allowed, with placeholders of both spellings; nothing else is allowed."""
    claim = rules_of_claim({"pub": ["a/%c"], "sub": ["b/${username}/#"], "all": ["c/+"], "other": 1})
    assert claim.only
    assert [short(rule) for rule in claim.rules] == [
        ("allow", "publish", "a/${clientid}", ANY, None),
        ("allow", "subscribe", "b/${username}/#", ANY, None),
        ("allow", "all", "c/+", ANY, None),
    ]
    assert rules_of_claim({}) == AclClaim(only=True)


def entry(**more: Any) -> dict[str, Any]:
    return {"permission": "allow", "action": "publish", "topic": "t"} | more


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [("allow", "publish", "t", ANY, None)]),
        ({"qos": 1}, [("allow", "publish", "t", [1], None)]),
        ({"qos": "0,2"}, [("allow", "publish", "t", [0, 2], None)]),
        ({"qos": [0, "1"]}, [("allow", "publish", "t", [0, 1], None)]),
        ({"qos": "all", "retain": "all"}, [("allow", "publish", "t", ANY, None)]),
        ({"retain": True}, [("allow", "publish", "t", ANY, True)]),
        ({"retain": 0}, [("allow", "publish", "t", ANY, False)]),
        ({"topics": ["u", "v"]}, [("allow", "publish", topic, ANY, None) for topic in "tuv"]),
        ({"topic": "eq a/b"}, [("allow", "publish", "a/b", ANY, None)]),
        ({"topic": "eq a/#"}, []),
        ({"topic": "eq a/#", "permission": "deny"}, [("deny", "publish", "a/#", ANY, None)]),
        ({"topic": "${cert_common_name}/x"}, []),
        ({"ipaddr": "10.0.0.1"}, []),
        ({"clientid_re": "^x"}, []),
        ({"clientid_re": "^x", "permission": "deny"}, [("deny", "publish", "t", ANY, None)]),
        ({"clientid": "x", "username": "y"}, [("allow", "publish", "t", ANY, None)]),
    ],
)
def test_the_list(more: dict[str, Any], expected: list[Any]) -> None:
    """Every field of a rule, and what is taken for the worse."""
    claim = rules_of_claim([entry(**more)])
    assert not claim.only
    assert [short(rule) for rule in claim.rules] == expected


@pytest.mark.parametrize(
    ("claim", "field"),
    [
        ("all", "acl"),
        (1, "acl"),
        ({"pub": "a"}, "acl.pub"),
        ({"pub": [1]}, "acl.pub"),
        ([1], "acl[0]"),
        ([entry(), entry(permission="maybe")], "acl[1].permission"),
        ([entry(permission=None)], "acl[0].permission"),
        ([entry(action=["publish"])], "acl[0].action"),
        ([entry(topic=7)], "acl[0].topic"),
        ([{"permission": "allow", "action": "all"}], "acl[0].topic"),
        ([entry(qos=3)], "acl[0].qos"),
        ([entry(qos=[])], "acl[0].qos"),
        ([entry(qos={})], "acl[0].qos"),
        ([entry(retain="perhaps")], "acl[0].retain"),
        ([entry(retain=[])], "acl[0].retain"),
        ([entry(permission="deny", topic="a/#/b")], "filter"),
        ([entry(topics=["x"] * 3000)], "acl"),
    ],
)
def test_what_nobody_understands(claim: object, field: str) -> None:
    """It is refused, and the error names the part."""
    with pytest.raises(Invalid) as refused:
        rules_of_claim(claim)
    assert refused.value.field == field


def test_in_a_session() -> None:
    """What a session keeps is read back; what somebody spoilt allows nothing, and nothing else either."""
    claim = [entry()]
    assert acl_in_session(json.dumps(claim)) == rules_of_claim(claim)
    assert acl_in_session("") == NO_CLAIM
    for spoilt in ("[", "1", '[{"permission": 1}]', "[" * 100_000):
        assert acl_in_session(spoilt) == AclClaim(only=True)
