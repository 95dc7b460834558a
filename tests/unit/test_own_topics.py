"""Own topics: what belongs to a principal and to a session without any rule, and to nobody else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from companion.core.model import Allow, Deny, Reason
from companion.core.policy import OWN_TOPICS, Policy
from tests.support.hypo import examples
from tests.support.policies import NO_RULE, deny, publish, subscribe

PRINCIPALS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6) | st.sampled_from(
    ("a", "b", "a/b", "+", "#", "$SYS", "%2B", "$", "/", "a/#", "\0")
)


@examples(200)
@given(PRINCIPALS, PRINCIPALS, PRINCIPALS)
def test_own_topics_are_nobody_elses(one: str, other: str, session: str) -> None:
    """Whatever a principal is called, its own topics are allowed to it and to no other, as a subscription or as a publish."""
    policy = Policy(OWN_TOPICS, {"principal": one, "session": session})
    theirs = Policy(OWN_TOPICS, {"principal": other, "session": session})
    assert policy.size == theirs.size == 2
    own = OWN_TOPICS[0].filter.replace("${principal}", _encoded(one))
    mine = [subscribe(own), subscribe(own.removesuffix("/#")), publish(own.replace("#", _encoded(session) + "/x"))]
    for access in mine:
        assert isinstance(policy.decide(access), Allow)
        assert isinstance(theirs.decide(access), Allow) is (one == other)
    for everything in ("#", "+", "+/#", "$SYS/#", "$share/g/#", "$share/g/+/#"):
        assert policy.decide(subscribe(everything)) == NO_RULE


def _encoded(value: str) -> str:
    """Percent-encode byte by byte what may not stand in a level: separators, wildcards, controls and a leading `$`."""
    unsafe = {"%", "/", "+", "#", *map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))}
    return "".join(
        "".join(f"%{byte:02X}" for byte in character.encode())
        if character in unsafe or (character == "$" and index == 0)
        else character
        for index, character in enumerate(value)
    )


def test_own_topics_by_name() -> None:
    """Everybody subscribes below its own id; only a platform session publishes, below its own session; a stored deny beats both."""
    session = Policy(OWN_TOPICS, {"principal": "u1", "session": "s1"})
    assert session.decide(subscribe("u1/#")) == Allow(Reason.OWN_TOPIC, rule="own:principal")
    assert session.decide(publish("u1/s1/x")) == Allow(Reason.OWN_TOPIC, rule="own:session")
    assert (
        session.decide(publish("u1/s2/x"))
        == session.decide(publish("u1"))
        == session.decide(subscribe("u2/#"))
        == NO_RULE
    )

    account = Policy(OWN_TOPICS, {"principal": "u1", "username": "alice"})
    assert account.size == 1
    assert account.decide(subscribe("u1/a/+")) == Allow(Reason.OWN_TOPIC, rule="own:principal")
    assert account.decide(publish("u1/s1/x")) == account.decide(publish("u1//x")) == NO_RULE

    blocked = Policy([*OWN_TOPICS, deny("${principal}/+/secret")], {"principal": "u1", "session": "s1"})
    assert (
        blocked.decide(publish("u1/s1/secret"))
        == blocked.decide(subscribe("u1/#"))
        == Deny(Reason.DENIED_BY_RULE, rule="no")
    )
    assert blocked.decide(publish("u1/s1/x")) == Allow(Reason.OWN_TOPIC, rule="own:session")
