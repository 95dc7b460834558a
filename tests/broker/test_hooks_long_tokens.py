"""Logins with a long-lived token: every verdict, its scope on the topics, and that it can be taken back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from companion.core.long_tokens import LongToken, digest_of, new_token
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from companion.keys import apt_keys
from tests.support.eventually import eventually
from tests.support.jwts import in_seconds
from tests.support.service import Service, account_of, serving
from tests.support.traces import only_trace


async def issue(service: Service, username: str = "alice", **more: Any) -> str:
    """Store a token as `companion tokens add` does, and return it."""
    token_id, text = new_token()
    kept = {"id": token_id, "digest": digest_of(text, apt_keys(service.settings)[0]), "username": username}
    await service.store.tokens.add(LongToken(**kept | {"scopes": ("whole",)} | more))
    return text


async def login(service: Service, password: str, username: str = "alice", peer: str = "10.1.2.3") -> dict[str, Any]:
    fields = {"username": username, "password": password, "clientid": "c1", "peerhost": peer}
    return await service.ask("auth", fields)


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "good": ("long_token", {}, {}),
    "before its end": ("long_token", {"expires_at": in_seconds(3600)}, {}),
    "after its end": ("token_expired", {"expires_at": in_seconds(-1)}, {}),
    "another user name": ("wrong_principal", {}, {"username": "bob"}),
    "no user name": ("wrong_principal", {}, {"username": ""}),
    "from the right network": ("long_token", {"addresses": ("192.0.2.0/24", "10.0.0.0/8")}, {}),
    "from another network": ("address_not_allowed", {"addresses": ("192.0.2.0/24",)}, {}),
    "from nowhere": ("address_not_allowed", {"addresses": ("192.0.2.0/24",)}, {"peer": ""}),
}


@pytest.mark.parametrize("name", CASES)
async def test_logins(hooks: Service, logged: io.StringIO, name: str) -> None:
    """The verdict is right; the metric, the log line and the audit record give the same reason, and nothing holds the token."""
    expected, token, request = CASES[name]
    text = await issue(hooks, **token)
    answer = await login(hooks, text, **request)
    assert (await only_trace(hooks, logged, "auth")).reason == expected
    if expected == "long_token":
        assert answer == {"result": "allow"} | ({"expire_at": token["expires_at"]} if token.get("expires_at") else {})
    else:
        assert answer == {"result": "deny"}
    assert text.split("_", 2)[2] not in logged.getvalue()


async def test_a_token_that_is_none_of_ours(hooks: Service, logged: io.StringIO) -> None:
    """One that was never made, or was made under another key, is refused, and costs no look at a password."""
    await issue(hooks)
    _, stranger = new_token()
    assert await login(hooks, stranger) == {"result": "deny"}
    assert (await only_trace(hooks, logged, "auth")).reason == "token_invalid"
    token_id, text = new_token()
    await hooks.store.tokens.add(LongToken(token_id, digest_of(text, "another key"), "alice", ("whole",)))
    assert await login(hooks, text) == {"result": "deny"}


async def test_what_only_begins_alike_is_a_password(hooks: Service) -> None:
    """The platform's own tokens, and whatever else begins with the prefix, are passwords of accounts."""
    for number, password in enumerate(("apt", "apt_get", "apt_0123456789abcdef_short")):
        await hooks.store.accounts.add([account_of(f"u{number}", password)])
        assert (await hooks.login(f"u{number}", password))["result"] == "allow"


async def test_keys_of_a_rotation(tmp_path: Path) -> None:
    """Tokens are made under the first key; those of an older one are good as long as it is listed."""
    old, new = SecretStr("the-old-key-of-tokens"), SecretStr("the-new-key-of-tokens")
    async with serving(tmp_path, apt_keys=(old,)) as service:
        text = await issue(service)
        assert (await login(service, text))["result"] == "allow"
    async with serving(tmp_path, apt_keys=(new, old)) as service:
        assert (await login(service, text))["result"] == "allow"
        newer = await issue(service)
    async with serving(tmp_path, apt_keys=(new,)) as service:
        assert (await login(service, text))["result"] == "deny"
        assert (await login(service, newer))["result"] == "allow"


async def test_the_account_decides_too(hooks: Service) -> None:
    """A disabled account is refused with a token as well; an account that ends earlier ends the session."""
    ends = in_seconds(60)
    await hooks.store.accounts.add([account_of("alice", "x", expires_at=ends), account_of("bob", "x", disabled=True)])
    assert await login(hooks, await issue(hooks)) == {"result": "allow", "expire_at": ends}
    assert await login(hooks, await issue(hooks, "bob"), "bob") == {"result": "deny"}


@pytest.mark.parametrize(
    ("scopes", "publishes", "subscribes"),
    [
        (("whole",), True, True),
        (("publish",), True, False),
        (("subscribe",), False, True),
        (("publish", "subscribe"), True, True),
    ],
)
async def test_scopes(hooks: Service, scopes: tuple[str, ...], publishes: bool, subscribes: bool) -> None:  # noqa: FBT001 - what is expected
    """Rules of the account, of its kind, of everybody, and its own topics hold within the scope; denials hold whatever it is."""
    await hooks.store.accounts.add([account_of("alice", "x", principal="p")])
    for effect, subject, topic in (
        (Effect.ALLOW, "account:alice", "a"),
        (Effect.ALLOW, "kind:device", "k"),
        (Effect.ALLOW, EVERYONE, "e"),
        (Effect.DENY, EVERYONE, "p/no"),
    ):
        await hooks.store.rules.add(Rule(subject, effect, RuleAction.ALL, topic))
    await login(hooks, await issue(hooks, scopes=scopes))
    for topic in ("a", "k", "e"):
        assert await hooks.may("alice", "publish", topic) is publishes
        assert await hooks.may("alice", "subscribe", topic) is subscribes
    assert await hooks.may("alice", "subscribe", "p/x") is subscribes
    assert not await hooks.may("alice", "subscribe", "p/no")
    assert not await hooks.may("alice", "publish", "other")


async def test_a_superuser_with_a_smaller_token(tmp_path: Path) -> None:
    """With part of the scope nobody is a superuser, or the broker would ask about nothing."""
    async with serving(tmp_path, hooks_superusers=True) as service:
        await service.store.accounts.add([account_of("alice", "x", superuser=True)])
        assert await login(service, await issue(service)) == {"result": "allow", "is_superuser": True}
        assert await login(service, await issue(service, scopes=("subscribe",))) == {"result": "allow"}
        assert await service.may("alice", "subscribe", "any/thing")
        assert not await service.may("alice", "publish", "any/thing")


async def test_a_token_that_is_taken_back(hooks: Service) -> None:
    """It connects no more, and whoever is connected with it may nothing any more, soon after another process took it back."""
    text = await issue(hooks)
    assert (await login(hooks, text))["result"] == "allow"
    assert await hooks.may("alice", "subscribe", "alice/x")
    (token,) = await hooks.store.tokens.list()
    assert await hooks.store.tokens.remove(token.id)
    assert await login(hooks, text) == {"result": "deny"}

    async def stopped() -> bool:
        return not await hooks.may("alice", "subscribe", "alice/x")

    await eventually(stopped, what="the token is felt to be gone")


async def test_a_password_after_a_token(hooks: Service) -> None:
    """Whoever then connects with a password has everything again."""
    await hooks.store.accounts.add([account_of("alice", "x")])
    await hooks.store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "a"))
    await login(hooks, await issue(hooks, scopes=("subscribe",)))
    assert not await hooks.may("alice", "publish", "a")
    assert (await hooks.login("alice", "x"))["result"] == "allow"
    assert await hooks.may("alice", "publish", "a")
