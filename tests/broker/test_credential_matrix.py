"""Every kind of credential with every outcome, over real HTTP; those for MQTT 3.1.1 through a real broker as well."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from broker_hooks.hashing import hash_password
from companion.core.long_tokens import LongToken, digest_of, new_token
from companion.core.model import AccountSecret
from companion.embedded import EmbeddedBroker, EmbeddedBrokerConfig
from companion.keys import apt_keys
from tests.broker.embedded_client import client
from tests.support.client_certs import client_certificate
from tests.support.jwks import generic, jwk_of, jwks, pem_of, private_key
from tests.support.jwts import OTHER_SECRET, SECRET, in_seconds, token
from tests.support.service import HOOK_KEY, Service, account_of, serving
from tests.support.traces import decisions

Fields = dict[str, str]
Make = Callable[[Service], Awaitable[Fields]]

FAILURES = 3
ALGORITHMS = ("HS256", "RS256", "ES256")
CERTIFICATE = client_certificate("device-1")


def fields(username: str, password: str, client_id: str = "s1:1", **more: str) -> Fields:
    return {"username": username, "password": password, "clientid": client_id, "peerhost": "10.1.2.3"} | more


def with_account(password: str, **account: Any) -> Make:
    """Return what adds the account `alice`, whose password is `secret`, and logs in."""

    async def make(service: Service) -> Fields:
        await service.store.accounts.add([account_of("alice", "secret", **account)])
        return fields("alice", password)

    return make


def only(**request: str) -> Make:
    async def make(_: Service) -> Fields:
        return fields(**{"username": "alice", "password": ""} | request)

    return make


def other(**times: int) -> dict[str, Any]:
    return {"secrets": (AccountSecret("s1", hash_password("other", 4), **times),)}


def platform(username: str = "u1", secret: str = SECRET, account: dict[str, Any] | None = None, **claims: Any) -> Make:
    """Return what logs in with a token of the platform."""

    async def make(service: Service) -> Fields:
        if account is not None:
            await service.store.accounts.add([account_of("u1", "x", **account)])
        return fields(username, token(secret, **claims))

    return make


def issued(key: str, algorithm: str, number: int = 0, account: dict[str, Any] | None = None, **claims: Any) -> Make:
    """Return what logs in with a token of another issuer."""

    async def make(service: Service) -> Fields:
        if account is not None:
            await service.store.accounts.add([account_of("alice", "x", **account)])
        return fields("alice", generic(private_key(key, number), algorithm, **claims))

    return make


def long_token(account: dict[str, Any] | None = None, *, known: bool = True, spoilt: bool = False, **kept: Any) -> Make:
    """Return what logs in with a long-lived token."""

    async def make(service: Service) -> Fields:
        if account is not None:
            await service.store.accounts.add([account_of("alice", "x", **account)])
        token_id, text = new_token()
        digest = digest_of(text, apt_keys(service.settings)[0])
        if known:
            await service.store.tokens.add(LongToken(token_id, digest, "alice", ("whole",), **kept))
        return fields("alice", text[:-4] + "AAAA" if spoilt else text)

    return make


def certificate(shown: Fields, **account: Any) -> Make:
    async def make(service: Service) -> Fields:
        await service.store.accounts.add([account_of("alice", "x", certificates=("cn:device-1",), **account)])
        return fields("alice", "", **shown)

    return make


MATRIX: dict[str, dict[str, tuple[str, Make]]] = {
    "password": {
        "good": ("password", with_account("secret")),
        "wrong": ("wrong_password", with_account("wrong")),
        "unknown": ("unknown_user", only(password="secret")),
        "expired": ("account_expired", with_account("secret", expires_at=1)),
        "not yet": ("secret_not_yet", with_account("other", **other(not_before=in_seconds(3600)))),
        "disabled": ("account_disabled", with_account("secret", disabled=True)),
        "malformed": ("malformed", only(password="a\0b", username="a\0b")),
    },
    "secret": {
        "good": ("password", with_account("other", **other())),
        "wrong": ("wrong_password", with_account("third", **other())),
        "expired": ("secret_expired", with_account("other", **other(not_after=1))),
        "not yet": ("secret_not_yet", with_account("other", **other(not_before=in_seconds(3600)))),
        "disabled": ("account_disabled", with_account("other", disabled=True, **other())),
    },
    "platform token": {
        "good": ("token", platform()),
        "wrong": ("token_invalid", platform(secret=OTHER_SECRET)),
        "unknown": ("wrong_principal", platform("u2")),
        "expired": ("token_expired", platform(exp=in_seconds(-3600))),
        "not yet": ("token_claims", platform(nbf=in_seconds(3600))),
        "disabled": ("account_disabled", platform(account={"disabled": True})),
        "malformed": ("token_invalid", only(password="eyJhbGciOiJIUzI1NiJ9.e30.!", username="u1")),
    },
    "issued token, PEM": {
        "good": ("token", issued("rsa", "RS256")),
        "wrong": ("token_invalid", issued("rsa", "RS256", 1)),
        "unknown": ("wrong_principal", issued("rsa", "RS256", sub="bob")),
        "expired": ("token_expired", issued("rsa", "RS256", exp=in_seconds(-3600))),
        "not yet": ("token_claims", issued("rsa", "RS256", nbf=in_seconds(3600))),
        "disabled": ("account_disabled", issued("rsa", "RS256", account={"disabled": True})),
        "malformed": ("token_claims", issued("rsa", "RS256", acl="x")),
    },
    "issued token, JWKS": {
        "good": ("token", issued("p256", "ES256", kid="k1")),
        "wrong": ("token_invalid", issued("p256", "ES256", 1, kid="k1")),
        "unknown": ("token_invalid", issued("p256", "ES256", kid="k2")),
        "expired": ("token_expired", issued("p256", "ES256", kid="k1", exp=in_seconds(-3600))),
        "not yet": ("token_claims", issued("p256", "ES256", kid="k1", nbf=in_seconds(3600))),
        "disabled": ("account_disabled", issued("p256", "ES256", kid="k1", account={"disabled": True})),
    },
    "long-lived token": {
        "good": ("long_token", long_token()),
        "wrong": ("token_invalid", long_token(spoilt=True)),
        "unknown": ("token_invalid", long_token(known=False)),
        "expired": ("token_expired", long_token(expires_at=1)),
        "disabled": ("account_disabled", long_token({"disabled": True})),
        "malformed": ("wrong_password", with_account("apt_0123456789abcdef_short")),
    },
    "certificate": {
        "good": ("certificate", certificate(CERTIFICATE.fields)),
        "wrong": ("wrong_certificate", certificate(client_certificate("device-2").fields)),
        "unknown": ("no_credentials", only(**CERTIFICATE.fields)),
        "expired": ("certificate_expired", certificate(client_certificate("device-1", ends=-1).fields)),
        "not yet": ("certificate_not_yet", certificate(client_certificate("device-1", begins=3600).fields)),
        "disabled": ("account_disabled", certificate(CERTIFICATE.fields, disabled=True)),
        "malformed": ("malformed", certificate(CERTIFICATE.fields | {"cert_pem": "AAAA"})),
    },
}
"""What is not in it cannot be, such as a secret of nobody. SCRAM, whose answers are keys, has a file of its own."""

ALLOWED = ("password", "token", "long_token", "certificate")


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    """Return settings with which every kind is tried."""
    (folder / "keys.json").write_bytes(jwks(jwk_of("p256", kid="k1")))
    return {
        "data_dir": folder / "data",
        "token_profiles": ("platform", "generic"),
        "token_algorithms": ALGORITHMS,
        "token_secrets": (SecretStr(SECRET),),
        "token_keys": (pem_of("rsa"),),
        "token_jwks_file": folder / "keys.json",
        **more,
    }


NO_CREDENTIAL = ("certificate", "unknown")
"""A certificate says nothing of a name that no account has; without a password nothing is left to be judged."""

ROWS = [(kind, outcome) for kind, outcomes in MATRIX.items() for outcome in outcomes]


@pytest.mark.parametrize(("kind", "outcome"), ROWS)
async def test_over_http(tmp_path: Path, logged: io.StringIO, kind: str, outcome: str) -> None:
    """The answer and its reason, and that nothing of the credential is in the log."""
    expected, make = MATRIX[kind][outcome]
    async with serving(**settings(tmp_path)) as service:
        request = await make(service)
        answer = await service.ask("auth", request)
    assert answer["result"] == ("allow" if expected in ALLOWED else "deny")
    assert answer["result"] == "allow" or answer == {"result": "deny"}
    assert [line["reason"] for line in decisions(logged)] == [expected]
    assert len(request["password"]) < 8 or request["password"] not in logged.getvalue()


@pytest.mark.parametrize("kind", MATRIX)
async def test_locked_out(tmp_path: Path, logged: io.StringIO, kind: str) -> None:
    """After too many refusals of a name at an address, a good credential of any kind is refused too, from there."""
    async with serving(**settings(tmp_path, throttle_failures=FAILURES)) as service:
        request = await MATRIX[kind]["good"][1](service)
        wrong = fields(request["username"], "wrong")
        for _ in range(FAILURES):
            await service.ask("auth", wrong)
        assert await service.ask("auth", request) == {"result": "deny"}
        elsewhere = await service.ask("auth", request | {"peerhost": "10.9.9.9"})
        assert elsewhere["result"] == "allow"
    assert [line["reason"] for line in decisions(logged)][FAILURES:] == ["throttled", MATRIX[kind]["good"][0]]


REFUSED = [
    (kind, outcome)
    for kind, outcome in ROWS
    if outcome not in {"good", "malformed"} and (kind, outcome) != NO_CREDENTIAL
]


@pytest.mark.parametrize(("kind", "outcome"), REFUSED)
async def test_every_refusal_counts(tmp_path: Path, logged: io.StringIO, kind: str, outcome: str) -> None:
    """Whatever a credential is refused for, who goes on trying is refused unseen."""
    expected, make = MATRIX[kind][outcome]
    async with serving(**settings(tmp_path, throttle_failures=FAILURES)) as service:
        request = await make(service)
        for _ in range(FAILURES + 1):
            assert await service.ask("auth", request) == {"result": "deny"}
    assert [line["reason"] for line in decisions(logged)] == [expected] * FAILURES + ["throttled"]


THROUGH_A_BROKER = [(kind, outcome) for kind, outcome in ROWS if kind != "certificate" and outcome != "malformed"]
"""The embedded broker has no TLS. What no client library sends is left out."""


@pytest.mark.parametrize(("kind", "outcome"), THROUGH_A_BROKER)
async def test_through_a_broker(tmp_path: Path, kind: str, outcome: str) -> None:
    """A real client is let in, and can subscribe to what is its own, or is told that it is not authorized (MQTT 3.1.1 §3.2.2.3)."""
    expected, make = MATRIX[kind][outcome]
    async with serving(**settings(tmp_path)) as service:
        request = await make(service)
        config = EmbeddedBrokerConfig(port=0, hooks_url=service.hooks, hook_key=HOOK_KEY)
        async with EmbeddedBroker(config) as broker, client(broker.port) as device:
            code = await device.connect(request["clientid"], request["username"], request["password"])
            if expected in ALLOWED:
                assert code == 0
                assert await device.subscribe((f"{request['username']}/#", 1)) == [1]
            else:
                assert code == 5
