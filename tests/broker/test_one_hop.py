"""One hop over real HTTP: a login's answer carries the whole policy, or does not, and the broker's verdicts stay the same."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from companion.core.model import Kind
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction, subject_of_account, subject_of_kind
from tests.support import emqx_matcher
from tests.support.eventually import eventually
from tests.support.jwts import SECRET, in_seconds, token
from tests.support.service import Service, account_of, serving

PASSWORD = "secret"


def one_hop(data_dir: Path, **changes: Any) -> AbstractAsyncContextManager[Service]:
    """Serve hooks that give lists."""
    return serving(data_dir, hooks_acl=True, token_secrets=(SecretStr(SECRET),), **changes)


@pytest.fixture
async def service(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run hooks that give lists, with some accounts and rules."""
    del logged
    async with one_hop(tmp_path) as running:
        await furnish(running)
        yield running


RULES = (
    Rule(subject_of_kind("device"), Effect.ALLOW, RuleAction.PUBLISH, "telemetry/${username}/#", frozenset({0, 1})),
    Rule(subject_of_kind("device"), Effect.ALLOW, RuleAction.SUBSCRIBE, "commands/${username}/+"),
    Rule(subject_of_account("alice"), Effect.DENY, RuleAction.ALL, "telemetry/alice/secret"),
    Rule(subject_of_account("alice"), Effect.ALLOW, RuleAction.SUBSCRIBE, "telemetry/#"),
    Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "hello", retain=False),
    Rule(subject_of_account("wild"), Effect.ALLOW, RuleAction.SUBSCRIBE, "+/state/+"),
)


async def furnish(service: Service) -> None:
    accounts = [account_of(name, PASSWORD) for name in ("alice", "bob", "wild", "a${clientid}")]
    await service.store.accounts.add(
        [*accounts, account_of("ulla", PASSWORD, kind=Kind.USER, expires_at=in_seconds(90))]
    )
    for rule in RULES:
        await service.store.rules.add(rule)


async def listed(service: Service, username: str, client_id: str = "c1") -> list[emqx_matcher.Line]:
    """Log in and return the list, as EMQX reads it."""
    answer = await service.login(username, PASSWORD, client_id)
    assert answer["result"] == "allow"
    return emqx_matcher.read(json.dumps(answer["acl"]).encode())


ASKED = [
    (action, topic, qos, retain)
    for action, topics in {
        "publish": ("telemetry/alice/1", "telemetry/alice/secret", "telemetry/bob/1", "hello", "$SYS/x", "alice/x"),
        "subscribe": (
            "telemetry/#",
            "telemetry/+/1",
            "telemetry/alice/+",
            "telemetry/alice/secret",
            "telemetry/bob/#",
            "$share/g/telemetry/alice/#",
            "$share/g/telemetry/bob/1",
            "commands/alice/+",
            "commands/alice/#",
            "commands/bob/+",
            "alice/#",
            "bob/#",
            "ulla/#",
            "#",
            "+",
            "$SYS/#",
            "$queue/alice/x",
            "$exclusive/alice/#",
        ),
    }.items()
    for topic in topics
    for qos in range(3)
    for retain in (False, True)
]


@pytest.mark.parametrize("username", ["alice", "bob", "ulla"])
async def test_the_list_says_what_the_hooks_say(service: Service, username: str) -> None:
    """Read by the model of EMQX, the list of each client gives the verdict that `/mqtt/authz` gives on the same request."""
    lines = await listed(service, username)
    client = {"username": username, "clientid": "c1"}
    verdicts = set()
    for action, topic, qos, retain in ASKED:
        wanted = emqx_matcher.stripped(action, topic)
        by_list = emqx_matcher.decide(lines, client, action, wanted, qos, retain=retain) or "deny"
        by_hooks = await service.may(username, action, wanted, qos=str(qos), retain=str(retain).lower())
        assert (action, topic, qos, retain, by_list) == (action, topic, qos, retain, "allow" if by_hooks else "deny")
        verdicts.add((action, by_hooks))
    assert len(verdicts) == 4


async def test_the_answer_on_the_wire(service: Service) -> None:
    """Every list has lines, every line topics; no null stands anywhere."""
    for username in ("alice", "bob", "ulla"):
        answer = await service.login(username, PASSWORD)
        assert set(answer) == {"result", "expire_at", "acl"}
        assert answer["acl"]
        assert all(line["topics"] for line in answer["acl"])
        assert "null" not in json.dumps(answer)


async def test_off_unless_asked_for(tmp_path: Path) -> None:
    """By default a login carries no list and no end, and nothing is counted."""
    async with serving(tmp_path) as service:
        await furnish(service)
        assert await service.login("alice", PASSWORD) == {"result": "allow"}
        assert all(value == 0 for _, value in await service.samples("companion_acl_lists_total"))


async def test_who_gets_no_list(service: Service) -> None:
    """A policy that EMQX would not say exactly is left to requests, and the reason is counted."""
    for username, why in (("wild", "wildcard_prefix"), ("a${clientid}", "placeholder")):
        assert await service.login(username, PASSWORD) == {"result": "allow"}
        assert await service.metric("companion_acl_lists_total", outcome=why) == 1
    assert await service.may("wild", "subscribe", "a/state/+")
    assert not await service.may("wild", "subscribe", "a/state/#")
    await listed(service, "bob")
    assert await service.metric("companion_acl_lists_total", outcome="given") == 1
    assert (await service.login("bob", "wrong")) == {"result": "deny"}
    assert sum(value for _, value in await service.samples("companion_acl_lists_total")) == 3


@pytest.mark.parametrize(
    ("bounds", "why"),
    [({"hooks_acl_topics": 2}, "too_many"), ({"hooks_acl_bytes": 1024, "hooks_acl_topics": 99}, "too_long")],
)
async def test_bounds(tmp_path: Path, bounds: dict[str, int], why: str) -> None:
    """A policy of more topics or bytes than are set is left to requests."""
    async with one_hop(tmp_path, **bounds) as service:
        await furnish(service)
        for number in range(30):
            subject = subject_of_account("bob")
            await service.store.rules.add(
                Rule(subject, Effect.ALLOW, RuleAction.PUBLISH, f"a-rather-long-topic/{number}/#")
            )
        assert await service.login("bob", PASSWORD) == {"result": "allow"}
        assert await service.metric("companion_acl_lists_total", outcome=why) == 1


async def test_a_session_with_a_list_ends(service: Service) -> None:
    """Within an hour at most, and not all at once; an account or a token that ends before ends it."""
    now = time.time()
    ends = {(await service.login("alice", PASSWORD, f"c{number}"))["expire_at"] for number in range(20)}
    assert all(now + 2880 <= end <= time.time() + 3602 for end in ends)
    assert len(ends) > 1
    assert (await service.login("ulla", PASSWORD))["expire_at"] <= now + 91
    answer = await service.login("u1", token(exp=in_seconds(60)), "s1:1")
    assert answer["expire_at"] <= now + 61
    assert {"permission": "allow", "action": "publish", "topics": ["u1/s1/#"]} in answer["acl"]


async def test_without_an_end(tmp_path: Path) -> None:
    """0 leaves the end to the credential."""
    async with one_hop(tmp_path, hooks_acl_seconds=0) as service:
        await furnish(service)
        assert set(await service.login("alice", PASSWORD)) == {"result", "acl"}
        assert "expire_at" in await service.login("ulla", PASSWORD)


async def overtaken(service: Service) -> float:
    """Return how many changes were counted; the embedded store says only that something has changed."""
    return sum([value for _, value in await service.samples("companion_acl_overtaken_total")])


async def test_a_change_of_rules(service: Service) -> None:
    """The next login has the new list; that older ones are overtaken is counted."""
    lines = await listed(service, "bob")
    client = {"username": "bob", "clientid": "c1"}
    assert emqx_matcher.decide(lines, client, "publish", "new", 0) == "deny"
    before = await overtaken(service)
    await service.store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "new"))

    async def known() -> bool:
        return emqx_matcher.decide(await listed(service, "bob"), client, "publish", "new", 0) == "allow"

    await eventually(known, what="the new rule is in the list")
    assert await overtaken(service) > before


async def test_a_storm_reads_no_policy_twice(service: Service) -> None:
    """Who comes back within the life of a policy gets the list that was made before: the caches are asked, not the store."""

    async def settled() -> bool:
        await listed(service, "bob")
        before = await service.metric("companion_cache_lookups_total", cache="policy", outcome="miss")
        await asyncio.sleep(0.1)
        await listed(service, "bob")
        return await service.metric("companion_cache_lookups_total", cache="policy", outcome="miss") == before

    await eventually(settled, what="the policy is remembered")
    before = await service.metric("companion_cache_lookups_total", cache="policy", outcome="miss")
    answers = [await service.login("bob", PASSWORD) for _ in range(20)]
    assert len({json.dumps(answer["acl"]) for answer in answers}) == 1
    assert await service.metric("companion_cache_lookups_total", cache="policy", outcome="miss") == before
