"""What a login tells the broker beside the yes, over real HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from tests.support.jwts import SECRET, in_seconds, token
from tests.support.service import account_of, serving

ATTRS = {
    "kind": "kind",
    "who": "principal",
    "name": "username",
    "Tenant-1": "attributes.tenant",
    "none": "attributes.x",
}


async def test_attributes_of_accounts(tmp_path: Path) -> None:
    """What the settings name is told; what the account does not have, or EMQX would refuse, is left out; never a null."""
    ends = in_seconds(600)
    async with serving(tmp_path, hooks_client_attrs=ATTRS) as service:
        attributes = {"tenant": "t1", "other": "o"}
        await service.store.accounts.add(
            [
                account_of("alice", "secret", principal="p", attributes=attributes, expires_at=ends),
                account_of("bob", "secret", attributes={"tenant": "x" * 2000}),
            ]
        )
        assert await service.login("alice", "secret") == {
            "result": "allow",
            "expire_at": ends,
            "client_attrs": {"kind": "device", "who": "p", "name": "alice", "Tenant-1": "t1"},
        }
        answer = await service.login("bob", "secret")
        assert answer == {"result": "allow", "client_attrs": {"kind": "device", "who": "bob", "name": "bob"}}
        assert await service.login("alice", "wrong") == {"result": "deny"}


async def test_attributes_of_a_token_and_its_account(tmp_path: Path) -> None:
    """Both are told; a claim counts more than what the account says."""
    settings: dict[str, Any] = {
        "token_secrets": (SecretStr(SECRET),),
        "token_client_attrs": {"kind": "scope", "aid": "aid"},
        "hooks_client_attrs": {"kind": "kind", "who": "principal"},
    }
    async with serving(tmp_path, **settings) as service:
        answer = await service.login("u1", token(), "s1:1")
        assert answer["client_attrs"] == {"kind": "publish subscribe", "aid": "a1"}
        await service.store.accounts.add([account_of("u2", "secret")])
        answer = await service.login("u2", token(uid="u2"), "s1:1")
        assert answer["client_attrs"] == {"kind": "publish subscribe", "aid": "a1", "who": "u2"}


@pytest.mark.parametrize("told", [True, False])
async def test_superusers(tmp_path: Path, *, told: bool) -> None:
    """EMQX hears of one only where that is wanted; to us one may do whatever no rule denies."""
    async with serving(tmp_path, hooks_superusers=told) as service:
        await service.store.accounts.add([account_of("root", "secret", superuser=True), account_of("bob", "secret")])
        await service.store.rules.add(Rule(EVERYONE, Effect.DENY, RuleAction.ALL, "secret/#"))
        answer = await service.login("root", "secret")
        assert answer == {"result": "allow"} | ({"is_superuser": True} if told else {})
        assert "null" not in json.dumps(answer)
        assert await service.login("bob", "secret") == {"result": "allow"}
        assert await service.may("root", "publish", "any/thing")
        assert await service.may("root", "subscribe", "$SYS/#")
        assert not await service.may("root", "publish", "secret/x")
        assert not await service.may("bob", "publish", "any/thing")
