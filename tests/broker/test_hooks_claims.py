"""What a token of any issuer says: demands on its claims, rules in it, and a token as the user name."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from companion.core.rules import EVERYONE, Effect, Rule, RuleAction, subject_of_account
from tests.support.eventually import eventually
from tests.support.issuers import issuer, reason_of
from tests.support.jwks import generic, pem_of, private_key
from tests.support.jwts import SECRET, in_seconds, token
from tests.support.service import account_of, serving
from tests.support.traces import only_trace

# Claims


CLAIMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "an issuer of ours": ("token", {"token_issuers": ("https://issuer.example", "b")}, {}),
    "another issuer": ("token_claims", {"token_issuers": ("https://other.example",)}, {}),
    "no issuer": ("token_claims", {"token_issuers": ("https://issuer.example",)}, {"iss": None}),
    "our audience": ("token", {"token_audiences": ("mqtt",)}, {"aud": "mqtt"}),
    "our audience among others": ("token", {"token_audiences": ("mqtt", "x")}, {"aud": ["web", "mqtt"]}),
    "another audience": ("token_claims", {"token_audiences": ("mqtt",)}, {"aud": "web"}),
    "no audience": ("token_claims", {"token_audiences": ("mqtt",)}, {}),
    "an audience that nobody asks for": ("token", {}, {"aud": "web"}),
    "not yet": ("token_claims", {}, {"nbf": lambda: in_seconds(3600)}),
    "expired": ("token_expired", {}, {"exp": lambda: in_seconds(-3600)}),
    "no end": ("token_claims", {}, {"exp": None}),
    "another principal claim": ("token", {"token_principal": "device.name"}, {"device": {"name": "alice"}, "sub": "x"}),
    "no principal": ("token_claims", {}, {"sub": None}),
    "a principal that is a number": ("token_claims", {}, {"sub": 17}),
    "a required claim": ("token", {"token_required": {"role": ("device",)}}, {"role": "device"}),
    "a required claim of another value": ("token_claims", {"token_required": {"role": ("device",)}}, {"role": "user"}),
    "a required claim that is missing": ("token_claims", {"token_required": {"role": ("*",)}}, {}),
    "a required claim in a list": ("token", {"token_required": {"a.roles": ("x", "y")}}, {"a": {"roles": ["z", "y"]}}),
    "a required name": (
        "token",
        {"token_required": {"cl": ("${clientid}",), "u": ("${username}",)}},
        {"cl": "any-client", "u": "alice"},
    ),
    "another required name": ("token_claims", {"token_required": {"cl": ("${clientid}",)}}, {"cl": "another"}),
    "a forbidden claim": ("token_claims", {"token_forbidden": {"admin": ("true",)}}, {"admin": True}),
    "a forbidden claim of another value": ("token", {"token_forbidden": {"admin": ("true",)}}, {"admin": False}),
    "a claim forbidden at all": ("token_claims", {"token_forbidden": {"act": ("*",)}}, {"act": "someone"}),
    "a claim forbidden at all that is not there": ("token", {"token_forbidden": {"act": ("*",)}}, {}),
    "a platform token where there is none": ("token_claims", {"token_profiles": ("platform",)}, {}),
    "both profiles, another's token": ("token", {"token_profiles": ("platform", "generic")}, {}),
    "both profiles, half a platform token": (
        "token_claims",
        {"token_profiles": ("platform", "generic")},
        {"type": "refresh"},
    ),
    "an acl that is none": ("token_claims", {}, {"acl": "all"}),
    "an acl with a bad rule": ("token_claims", {}, {"acl": [{"permission": "allow", "action": "all"}]}),
}


@pytest.mark.parametrize("name", CLAIMS)
async def test_claims(tmp_path: Path, logged: io.StringIO, name: str) -> None:
    """What the settings demand of the claims is held to, with a reason that all traces share."""
    expected, settings, changes = CLAIMS[name]
    changes = {claim: value() if callable(value) else value for claim, value in changes.items()}
    async with issuer(tmp_path, token_keys=(pem_of("p256"),), **settings) as service:
        await service.login("alice", generic(private_key("p256"), "ES256", **changes), "any-client")
        assert (await only_trace(service, logged, "auth")).reason == expected


async def test_what_the_broker_is_told(tmp_path: Path) -> None:
    """Attributes come from claims, whatever EMQX would refuse is left out, and a superuser is one only where that is wanted."""
    claims: dict[str, Any] = {
        "tenant": "t1",
        "n": 7,
        "on": True,
        "empty": "",
        "list": [1],
        "long": "x" * 5000,
        "root": True,
    }
    attrs = {"Tenant-1": "tenant", "n": "n", "on": "on", "e": "empty", "l": "list", "long": "long", "none": "none"}
    password = generic(private_key("p256"), "ES256", **claims)
    settings = {"token_keys": (pem_of("p256"),), "token_client_attrs": attrs, "token_superuser": "root"}
    for wanted in (False, True):
        async with issuer(tmp_path, **settings, hooks_superusers=wanted) as service:
            answer = await service.login("alice", password)
            assert answer["client_attrs"] == {"Tenant-1": "t1", "n": "7", "on": "true"}
            assert answer.get("is_superuser") is (True if wanted else None)
            assert "null" not in json.dumps(answer)


async def test_an_account_of_the_same_name(tmp_path: Path, logged: io.StringIO) -> None:
    """The account of the principal, if there is one, decides too; its end is the earlier one."""
    ends = in_seconds(60)
    async with issuer(tmp_path, token_keys=(pem_of("p256"),)) as service:
        await service.store.accounts.add(
            [account_of("alice", "x", expires_at=ends), account_of("bob", "x", disabled=True)]
        )
        assert (await service.login("alice", generic(private_key("p256"), "ES256")))["expire_at"] == ends
        bob = generic(private_key("p256"), "ES256", sub="bob")
        assert await reason_of(service, logged, bob, "bob") == "account_disabled"


# Rules in the token


async def test_the_acl_of_a_token(tmp_path: Path) -> None:
    """The list gives rights beside those that are stored; a denial, stored or in the list, beats them all."""
    acl = [
        {"permission": "allow", "action": "publish", "topic": "out/${clientid}/#", "qos": [0, 1]},
        {"permission": "allow", "action": "subscribe", "topics": ["in/+", "secret/x"]},
        {"permission": "deny", "action": "all", "topic": "in/private"},
        {"permission": "allow", "action": "publish", "topic": "flag", "retain": False},
        {"permission": "allow", "action": "publish", "topic": "from/home", "ipaddr": "10.0.0.0/8"},
    ]
    async with issuer(tmp_path, token_keys=(pem_of("p256"),)) as service:
        await service.store.accounts.add([account_of("alice", "x")])
        for effect, topic in (("deny", "secret/#"), ("allow", "stored")):
            await service.store.rules.add(_rule(effect, topic))
        await service.login("alice", generic(private_key("p256"), "ES256", acl=acl), "c1")
        for allowed, action, topic, more in (
            (True, "publish", "out/c1/a", {"qos": "1"}),
            (False, "publish", "out/c1/a", {"qos": "2"}),
            (False, "publish", "out/c2/a", {"qos": "1"}),
            (True, "subscribe", "in/a", {}),
            (False, "subscribe", "in/private", {}),
            (False, "subscribe", "in/+", {}),
            (False, "subscribe", "secret/x", {}),
            (True, "publish", "flag", {"retain": "false"}),
            (False, "publish", "flag", {"retain": "true"}),
            (False, "publish", "from/home", {}),
            (True, "publish", "stored", {}),
            (True, "subscribe", "alice/x", {}),
        ):
            assert await service.may("alice", action, topic, "c1", **more) is allowed, (action, topic, more)


async def test_the_old_acl_of_a_token(tmp_path: Path) -> None:
    """The object says everything that is allowed, as in EMQX; a stored denial still holds."""
    acl = {"pub": ["out/%c", "no"], "sub": ["in/${username}/#"], "all": ["both"]}
    async with issuer(tmp_path, token_keys=(pem_of("p256"),)) as service:
        for effect, topic in (("deny", "no"), ("allow", "stored")):
            await service.store.rules.add(_rule(effect, topic))
        await service.login("alice", generic(private_key("p256"), "ES256", acl=acl), "c1")
        for allowed, action, topic in (
            (True, "publish", "out/c1"),
            (False, "subscribe", "out/c1"),
            (True, "subscribe", "in/alice/#"),
            (True, "publish", "both"),
            (True, "subscribe", "both"),
            (False, "publish", "no"),
            (False, "publish", "stored"),
            (False, "subscribe", "alice/x"),
        ):
            assert await service.may("alice", action, topic, "c1") is allowed, (action, topic)


def _rule(effect: str, topic: str) -> Rule:
    return Rule(EVERYONE, Effect(effect), RuleAction.ALL, topic)


async def test_a_platform_token_may_hold_an_acl_too(tmp_path: Path) -> None:
    """The claim is read from platform tokens as well; what they own they own all the same."""
    acl = [{"permission": "allow", "action": "publish", "topic": "x"}]
    async with serving(tmp_path, token_secrets=(SecretStr(SECRET),)) as service:
        await service.login("u1", token(acl=acl), "s1:1")
        assert await service.may("u1", "publish", "x", "s1:1")
        assert await service.may("u1", "publish", "u1/s1/status", "s1:1")
        await service.login("u1", token(), "s1:1")
        assert not await service.may("u1", "publish", "x", "s1:1")


# Tokens as user names


async def test_a_token_as_the_user_name(tmp_path: Path, logged: io.StringIO) -> None:
    """The token may be the user name: its principal's rules hold, and no store, log or audit sees the token."""
    settings = {"token_keys": (pem_of("p256"),), "token_from": "username"}
    async with issuer(tmp_path, **settings) as service:
        await service.store.accounts.add([account_of("alice", "secret"), account_of("bob", "secret")])
        await service.store.rules.add(_account_rule("alice", "for/${username}"))
        known = generic(private_key("p256"), "ES256")
        assert (await service.login(known, "", "c1"))["result"] == "allow"
        assert await service.may(known, "publish", "for/alice", "c1")
        assert await service.may(known, "subscribe", "alice/#", "c1")
        assert not await service.may(known, "publish", "for/alice", "c2")
        assert not await service.may(generic(private_key("p256"), "ES256", sub="bob"), "publish", "for/alice", "c1")
        # A disabled account is felt by those who are connected with a token.
        await service.store.accounts.set_disabled("alice", disabled=True)

        async def stopped() -> bool:
            return not await service.may(known, "publish", "for/alice", "c1")

        await eventually(stopped, what="the account is disabled")
        assert await service.login(known, "", "c1") == {"result": "deny"}
        # A token as the password is none here.
        assert (await service.login("bob", generic(private_key("p256"), "ES256", sub="bob")))["result"] == "deny"
        assert (await service.login("bob", "secret"))["result"] == "allow"
        audits = await service.audits(5)
    written = logged.getvalue() + "".join(map(str, audits))
    assert known.split(".")[2] not in written
    assert "jwt:" in written


def _account_rule(username: str, topic: str) -> Rule:
    return Rule(subject_of_account(username), Effect.ALLOW, RuleAction.ALL, topic)
