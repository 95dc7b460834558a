"""Tokens of any issuer: every algorithm, keys from everywhere, and demands on claims."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from companion.core.errors import Invalid
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction, subject_of_account
from tests.support.client_certs import client_certificate
from tests.support.eventually import eventually
from tests.support.jwks import FAMILIES, JwksServer, generic, jwk_of, jwks, pem_of, private_key, serving_jwks
from tests.support.jwts import SECRET, in_seconds, token
from tests.support.service import Service, account_of, serving
from tests.support.traces import decisions, only_trace
from tests.support.waiting import wait_until

ALL = tuple(FAMILIES)


def issuer(data_dir: Path, **more: Any) -> AbstractAsyncContextManager[Service]:
    """Serve hooks that accept tokens of any issuer, signed with any asymmetric algorithm."""
    return serving(data_dir, **{"token_profiles": ("generic",), "token_algorithms": ALL} | more)


async def reason_of(service: Service, logged: io.StringIO, password: str, username: str = "alice") -> str:
    """Return why a login came out as it did."""
    before = len(decisions(logged))
    await service.login(username, password, "any-client")
    return str(decisions(logged)[before]["reason"])


# Keys and algorithms


@pytest.mark.parametrize("algorithm", FAMILIES)
async def test_every_algorithm(tmp_path: Path, logged: io.StringIO, algorithm: str) -> None:
    """A public key verifies what its private one signed, whether it comes inline, from a file or in a JWK Set; no other does."""
    family = FAMILIES[algorithm]
    (tmp_path / "key.pem").write_text(pem_of(family))
    (tmp_path / "keys.json").write_bytes(jwks(jwk_of(family, kid="k1")))
    good = generic(private_key(family), algorithm, kid="k1")
    forged = generic(private_key(family, 1), algorithm, kid="k1")
    for where in (
        {"token_keys": (pem_of(family),)},
        {"token_key_files": (tmp_path / "key.pem",)},
        {"token_jwks_file": tmp_path / "keys.json"},
    ):
        async with issuer(tmp_path / "data", **where) as service:
            answer = await service.login("alice", good, "any-client")
            assert answer["result"] == "allow"
            assert answer["expire_at"] > in_seconds(0)
            assert await reason_of(service, logged, forged) == "token_invalid"
            assert await reason_of(service, logged, good, "bob") == "wrong_principal"


async def test_a_public_key_is_no_secret(tmp_path: Path, logged: io.StringIO) -> None:
    """A token that is signed with HMAC over the text of a public key, which everybody has, is refused (algorithm confusion)."""
    pem = pem_of("rsa")
    secrets = (SecretStr(SECRET),)
    algorithms = (*ALL, "HS256", "HS512")
    async with issuer(tmp_path, token_keys=(pem,), token_secrets=secrets, token_algorithms=algorithms) as service:
        for key in (pem, pem.strip(), pem.encode(), json.dumps(jwk_of("rsa"))):
            text = key if isinstance(key, str) else key.decode()
            # PyJWT refuses to sign so; whoever attacks does not.
            forged = hmac_token(text)
            assert await reason_of(service, logged, forged) == "token_invalid"
        assert await reason_of(service, logged, generic(SECRET, "HS256")) == "token"


def hmac_token(key: str) -> str:
    """Return a token signed with HMAC over any text at all."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    claims = part(json.dumps({"sub": "alice", "exp": in_seconds(600)}).encode())
    return f"{head}.{claims}.{part(hmac.new(key.encode(), f'{head}.{claims}'.encode(), hashlib.sha256).digest())}"


# To sign with a key that is too short is only warned of; to verify so is what we refuse.
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_a_key_verifies_only_what_it_is_for(tmp_path: Path, logged: io.StringIO) -> None:
    """A key whose JWK names one algorithm verifies no other; keys for encryption, private and weak ones are left out."""
    keys = (
        jwk_of("rsa", kid="r", alg="RS256"),
        jwk_of("p256", kid="e", use="enc"),
        jwk_of("p384", kid="o", key_ops=["encrypt"]),
        jwk_of("small rsa", kid="s"),
        jwk_of("secp256k1", kid="k"),
        {"kty": "oct", "k": "AAAA", "kid": "h"},
        {"kty": "unheard of", "kid": "x"},
        {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "b"},
    )
    (tmp_path / "keys.json").write_bytes(jwks(*keys))
    async with issuer(tmp_path, token_jwks_file=tmp_path / "keys.json") as service:
        for expected, key, algorithm, kid in (
            ("token", "rsa", "RS256", "r"),
            ("token", "rsa", "RS256", None),
            ("token_invalid", "rsa", "RS384", "r"),
            ("token_invalid", "rsa", "PS256", "r"),
            ("token_invalid", "p256", "ES256", "e"),
            ("token_invalid", "p384", "ES384", "o"),
            ("token_invalid", "small rsa", "RS256", "s"),
        ):
            assert await reason_of(service, logged, generic(private_key(key), algorithm, kid)) == expected


async def test_a_token_without_a_kid_is_tried_with_a_few_keys(tmp_path: Path) -> None:
    """A set of many keys serves tokens that name theirs; without a name only the first keys are tried."""
    many = [jwk_of("p256", number, kid=f"k{number}") for number in range(20)]
    (tmp_path / "keys.json").write_bytes(jwks(*many))
    async with issuer(tmp_path / "data", token_jwks_file=tmp_path / "keys.json") as service:
        for number, kid, verdict in ((19, "k19", "allow"), (15, None, "allow"), (16, None, "deny"), (0, "k1", "deny")):
            answer = await service.login("alice", generic(private_key("p256", number), "ES256", kid))
            assert answer["result"] == verdict, (number, kid)


async def test_certificates_are_keys_too(tmp_path: Path) -> None:
    """The public key in a certificate serves; several in one file do."""
    certificate = client_certificate("issuer")
    (tmp_path / "keys.pem").write_text(pem_of("p256") + certificate.pem)
    async with issuer(tmp_path, token_key_files=(tmp_path / "keys.pem",)) as service:
        for key, algorithm in ((certificate.key, "ES256"), (private_key("p256"), "ES256")):
            assert (await service.login("alice", generic(key, algorithm)))["result"] == "allow"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("token_key_files", "no key"),
        ("token_key_files", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"),
        ("token_key_files", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"),
        ("token_key_files", None),
        ("token_jwks_file", "{}"),
        ("token_jwks_file", '{"keys":[]}'),
        ("token_jwks_file", "no JSON"),
        ("token_jwks_file", None),
    ],
)
async def test_keys_that_are_none(tmp_path: Path, name: str, content: str | None) -> None:
    """A file without a key stops the start with one line that names the setting."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Invalid, match=name):
        async with issuer(tmp_path / "data", **{name: (path,) if name == "token_key_files" else path}):
            pass


# JWK Sets behind a URL


async def test_a_url(tmp_path: Path, logged: io.StringIO) -> None:
    """Keys are fetched once and serve by their ids; a symmetric key that anybody could fetch is none."""
    public = {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "h"}
    async with serving_jwks(jwks(jwk_of("rsa", kid="a"), jwk_of("p256", kid="b"), public)) as server:
        algorithms = (*ALL, "HS256")
        async with issuer(tmp_path, token_jwks_url=server.url, token_algorithms=algorithms) as service:
            for key, algorithm, kid in (("rsa", "RS256", "a"), ("rsa", "PS512", "a"), ("p256", "ES256", "b")):
                assert (await service.login("alice", generic(private_key(key), algorithm, kid)))["result"] == "allow"
            assert await reason_of(service, logged, generic("secret" * 8, "HS256", "h")) == "token_invalid"
            assert server.asked <= 2
            assert await service.metric("companion_token_key_looks_total", place="url", outcome="ok") == server.asked


async def test_an_unknown_kid_makes_us_look_once(tmp_path: Path, logged: io.StringIO) -> None:
    """A new key is found by the first token that names it; a hundred invented ids cause no further request."""
    async with serving_jwks(jwks(jwk_of("rsa", kid="old"))) as server:
        settings = {"token_jwks_url": server.url, "token_jwks_cooldown": 600.0}
        async with issuer(tmp_path, **settings) as service:
            assert (await service.login("alice", generic(private_key("rsa"), "RS256", "old")))["result"] == "allow"
            asked = server.asked
            server.body = jwks(jwk_of("rsa", kid="old"), jwk_of("rsa", 1, kid="new"))
            invented = [generic(private_key("rsa", 1), "RS256", f"new-{number}") for number in range(100)]
            answers = await asyncio.gather(*(service.login("alice", one) for one in invented))
            assert {answer["result"] for answer in answers} == {"deny"}
            assert server.asked == asked
        async with issuer(tmp_path / "2", token_jwks_url=server.url, token_jwks_cooldown=0.05) as service:
            await wait_until(lambda: server.asked > asked, what="the first look")
            server.body = jwks(jwk_of("p256", kid="newest"))
            newest = generic(private_key("p256"), "ES256", "newest")

            async def known() -> bool:
                return bool((await service.login("alice", newest))["result"] == "allow")

            await eventually(known, what="the newest key is known")
            # What the set does not hold any more is forgotten, also by the cache of verified tokens.
            gone = generic(private_key("rsa"), "RS256", "old")
            assert await reason_of(service, logged, gone) == "token_invalid"


async def test_a_key_that_is_withdrawn(tmp_path: Path, logged: io.StringIO) -> None:
    """A token that was verified and remembered is refused once its key has gone from the set."""
    async with (
        serving_jwks(jwks(jwk_of("rsa", kid="a"), jwk_of("p256", kid="b"))) as server,
        issuer(tmp_path, token_jwks_url=server.url, token_jwks_refresh=0.05) as service,
    ):
        known = generic(private_key("rsa"), "RS256", "a")
        assert (await service.login("alice", known))["result"] == "allow"
        server.body = jwks(jwk_of("p256", kid="b"))

        async def refused() -> bool:
            return await reason_of(service, logged, known) == "token_invalid"

        await eventually(refused, what="the token is refused")


async def two_more_looks(server: JwksServer) -> None:
    asked = server.asked
    await wait_until(lambda: server.asked > asked + 1, what="two more looks")


async def test_the_old_set_serves_while_the_url_is_away(tmp_path: Path, logged: io.StringIO) -> None:
    """Refusals, rubbish and too much of it leave the last good set in force; after its time nobody is let in by it."""
    known = generic(private_key("rsa"), "RS256", "a")
    async with serving_jwks(jwks(jwk_of("rsa", kid="a"))) as server:
        async with issuer(tmp_path, token_jwks_url=server.url, token_jwks_refresh=0.03) as service:
            assert (await service.login("alice", known))["result"] == "allow"
            for server.status, server.body in (
                (500, b""),
                (200, b"no JSON"),
                (200, b'{"keys":[]}'),
                (200, b" " * 300_000),
            ):
                await two_more_looks(server)
                assert (await service.login("alice", known))["result"] == "allow"
            assert "cannot be read" in logged.getvalue()
            assert await service.metric("companion_token_key_looks_total", place="url", outcome="failed") >= 4
        server.status, server.body = 200, jwks(jwk_of("rsa", kid="a"))
        settings = {"token_jwks_refresh": 0.03, "token_jwks_stale": 1.0}
        async with issuer(tmp_path / "2", token_jwks_url=server.url, **settings) as service:
            assert (await service.login("alice", known))["result"] == "allow"
            server.status = 503

            async def refused() -> bool:
                return await reason_of(service, logged, known) == "keys_away"

            await eventually(refused, what="the set is too old")


async def test_a_url_that_is_slow(tmp_path: Path, logged: io.StringIO) -> None:
    """A token waits no longer than the time-out for keys that do not come, and is refused with a reason of its own."""
    async with serving_jwks(jwks(jwk_of("rsa", kid="a"))) as server:
        server.hold.clear()
        async with issuer(tmp_path, token_jwks_url=server.url, token_jwks_timeout=0.2) as service:
            known = generic(private_key("rsa"), "RS256", "a")
            assert await reason_of(service, logged, known) == "keys_away"
            server.hold.set()

            async def admitted() -> bool:
                return bool((await service.login("alice", known))["result"] == "allow")

            await eventually(admitted, what="the keys have come")


async def test_a_redirection_is_not_followed(tmp_path: Path, logged: io.StringIO) -> None:
    """Whoever can redirect the request brings no keys of their own."""
    async with serving_jwks(jwks(jwk_of("rsa", kid="a"))) as other, serving_jwks() as server:
        server.status, server.headers = 302, {"Location": other.url}
        async with issuer(tmp_path, token_jwks_url=server.url) as service:
            assert await reason_of(service, logged, generic(private_key("rsa"), "RS256", "a")) == "keys_away"
        assert other.asked == 0


async def test_a_file_is_read_again(tmp_path: Path) -> None:
    """A JWK Set in a file is replaced while the service runs."""
    path = tmp_path / "keys.json"
    path.write_bytes(jwks(jwk_of("rsa", kid="a")))
    async with issuer(tmp_path, token_jwks_file=path, token_jwks_refresh=0.05) as service:
        assert (await service.login("alice", generic(private_key("rsa"), "RS256", "a")))["result"] == "allow"
        path.write_bytes(jwks(jwk_of("p521", kid="b")))

        async def admitted() -> bool:
            return bool((await service.login("alice", generic(private_key("p521"), "ES512", "b")))["result"] == "allow")

        await eventually(admitted, what="the new key is known")


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


def test_the_library_is_asked_for_one_algorithm() -> None:
    """PyJWT itself refuses what we do not ask for; this is the behaviour that everything above rests on."""
    with pytest.raises(jwt.InvalidAlgorithmError):
        jwt.decode(generic(SECRET, "HS256"), SECRET, algorithms=["HS384"])
