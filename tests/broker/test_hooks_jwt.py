"""Tokens of any issuer: every algorithm, and which key verifies what."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
from pathlib import Path

import jwt
import pytest
from pydantic import SecretStr

from companion.core.errors import Invalid
from tests.support.client_certs import client_certificate
from tests.support.issuers import ALL, issuer, reason_of
from tests.support.jwks import FAMILIES, generic, jwk_of, jwks, pem_of, private_key
from tests.support.jwts import SECRET, in_seconds


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


def test_the_library_is_asked_for_one_algorithm() -> None:
    """PyJWT itself refuses what we do not ask for; this is the behaviour that everything above rests on."""
    with pytest.raises(jwt.InvalidAlgorithmError):
        jwt.decode(generic(SECRET, "HS256"), SECRET, algorithms=["HS384"])
