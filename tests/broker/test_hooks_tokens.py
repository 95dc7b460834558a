"""Logins with a platform access token: every verdict, its reason, and what it leaves behind."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from tests.support.eventually import eventually
from tests.support.jwts import OTHER_SECRET, SECRET, claims_of, in_seconds, rsa_token, token, unsigned_token
from tests.support.service import Service, account_of, serving
from tests.support.traces import decisions, only_trace

LEEWAY = 30


def tokens_with(
    data_dir: Path, secrets: Sequence[str] = (SECRET,), algorithms: Sequence[str] = ("HS256",), **more: Any
) -> AbstractAsyncContextManager[Service]:
    """Serve hooks that know these secrets and algorithms."""
    keys = tuple(SecretStr(secret) for secret in secrets)
    return serving(data_dir, token_secrets=keys, token_algorithms=algorithms, **{"token_leeway": LEEWAY} | more)


@pytest.fixture
async def service(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run hooks that accept HS256 tokens."""
    del logged
    async with tokens_with(tmp_path) as running:
        yield running


def spoilt(part: int, text: str) -> str:
    """Return a token one of whose three parts is replaced."""
    parts = token().split(".")
    parts[part] = text
    return ".".join(parts)


def segment(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Login:
    """One attempt; the token is made when it is used, for its times count from then."""

    reason: str
    make: Callable[[], str] = token
    username: str = "u1"
    client_id: str = "s1:77"
    account: dict[str, Any] | None = None
    detail: str = ""


def made(**changes: Any) -> Callable[[], str]:
    """Return what makes a token with these claims; callables are called for their value."""
    return lambda: token(**{name: value() if callable(value) else value for name, value in changes.items()})


def at(seconds: float) -> Callable[[], int]:
    return lambda: in_seconds(seconds)


LOGINS = {
    "valid": Login("token"),
    "a longer client id": Login("token", client_id="s1:a:b:c"),
    "expired": Login("token_expired", made(exp=at(-LEEWAY - 5))),
    "expired long ago": Login("token_expired", made(exp=1)),
    "exp 0": Login("token_expired", made(exp=0)),
    "exp negative": Login("token_expired", made(exp=-1)),
    "just expired, within the leeway": Login("token", made(exp=at(-5))),
    "nbf in the past": Login("token", made(nbf=at(-100))),
    "nbf within the leeway": Login("token", made(nbf=at(5))),
    "nbf in the future": Login("token_claims", made(nbf=at(LEEWAY + 60))),
    "iat in the future": Login("token_claims", made(iat=at(LEEWAY + 60))),
    "wrong secret": Login("token_invalid", made(secret=OTHER_SECRET), detail="the signature does not fit"),
    "alg none": Login("token_invalid", unsigned_token),
    "RS256": Login("token_invalid", rsa_token, detail="the algorithm is not one of token_algorithms"),
    "HS512, not on the list": Login("token_invalid", made(algorithm="HS512")),
    "no exp": Login("token_claims", made(exp=None), detail="the claim exp is missing"),
    "exp in milliseconds": Login(
        "token_claims", made(exp=lambda: in_seconds(900) * 1000), detail="exp is not in seconds"
    ),
    "exp beyond every calendar": Login("token_claims", made(exp=10**30)),
    "exp infinite": Login("token_invalid", made(exp=float("inf"))),
    "exp no number": Login("token_invalid", made(exp=float("nan"))),
    "exp text": Login("token_invalid", made(exp="tomorrow")),
    "exp a list": Login("token_invalid", made(exp=[1])),
    "a refresh token": Login("token_claims", made(type="refresh"), detail="type is not access"),
    "no type": Login("token_claims", made(type=None)),
    "no session": Login("token_claims", made(session=None), detail="session is missing"),
    "an empty session": Login("token_claims", made(session=""), client_id=":77"),
    "groups that are a text": Login("token_claims", made(groups="night"), detail="groups is not a list of names"),
    "a group that is a number": Login("token_claims", made(groups=["night", 7])),
    "groups": Login("token", made(groups=["night"])),
    "a session that is a number": Login("token_claims", made(session=1), client_id="1:77"),
    "nobody": Login("token_claims", made(uid=None, aid=None, cid=None)),
    "a principal that is a number": Login("token_claims", made(uid=17), username="17"),
    "another user name": Login("wrong_principal", username="u2"),
    "the app's name instead of the user's": Login("wrong_principal", username="a1"),
    "no user name": Login("wrong_principal", username=""),
    "another client id": Login("wrong_client_id", client_id="s2:77"),
    "a client id that only begins alike": Login("wrong_client_id", client_id="s1x:77"),
    "a client id without a random part": Login("wrong_client_id", client_id="s1"),
    "a client id with an empty random part": Login("wrong_client_id", client_id="s1:"),
    "no client id": Login("wrong_client_id", client_id=""),
    "uid before aid and cid": Login("token", made(uid="u1", aid="a1", cid="c1")),
    "aid before cid": Login("token", made(uid=None), username="a1"),
    "cid alone": Login("token", made(uid=None, aid=None), username="c1"),
    "an empty uid is none": Login("token", made(uid=""), username="a1"),
    "an account of the same name": Login("token", account={}),
    "a disabled account of the same name": Login("account_disabled", account={"disabled": True}),
    "an expired account of the same name": Login("account_expired", account={"expires_at": 1}),
    "a spoilt signature": Login("token_invalid", lambda: spoilt(2, "AAAA")),
    "no signature": Login("token_invalid", lambda: spoilt(2, "")),
    "spoilt claims": Login("token_invalid", lambda: spoilt(1, segment(claims_of(uid="u2"))), username="u2"),
    "claims that are a list": Login("token_invalid", lambda: jwt.api_jws.encode(b"[1]", SECRET, "HS256")),
    "claims that are no JSON": Login("token_invalid", lambda: jwt.api_jws.encode(b"\xff", SECRET, "HS256")),
    "claims nested too deeply": Login(
        "token_invalid", lambda: jwt.api_jws.encode(b"[" * 20_000 + b"]" * 20_000, SECRET, "HS256")
    ),
    "a header that is none": Login("token_invalid", lambda: spoilt(0, "eyJub3RoaW5n")),
    "a header with spaces": Login("token_invalid", lambda: spoilt(0, segment({" alg": 1, "alg": "HS256"}))),
    "an unknown critical header": Login(
        "token_invalid",
        lambda: jwt.encode(claims_of(), SECRET, "HS256", headers={"crit": ["never-heard-of"], "never-heard-of": 1}),
    ),
    "four parts": Login("unknown_user", lambda: token() + ".x"),
    "two parts": Login("unknown_user", lambda: token().rpartition(".")[0]),
    "three parts of something else": Login("unknown_user", lambda: "www.example.com"),
    "three parts, the first of them JSON without alg": Login("unknown_user", lambda: f"{segment([1])}.b.c"),
    "three parts, the first of them nested": Login(
        "unknown_user", lambda: f"{base64.b64encode(b'[' * 9000).decode()}.b.c"
    ),
    "characters that no token has": Login("unknown_user", lambda: f"{token()}é"),
}


@pytest.mark.parametrize("name", LOGINS)
async def test_logins(service: Service, logged: io.StringIO, name: str) -> None:
    """The verdict is right; the metric, the log line and the audit record give the same reason, and nothing holds the token."""
    login = LOGINS[name]
    if login.account is not None:
        await service.store.accounts.add([account_of("u1", "secret", **login.account)])
    password = login.make()
    answer = await service.login(login.username, password, login.client_id)
    trace = await only_trace(service, logged, "auth")
    assert trace.reason == login.reason
    assert login.detail in trace.line.get("detail", "")
    assert answer["result"] == ("allow" if login.reason == "token" else "deny")
    assert ("expire_at" in answer) == (login.reason == "token")
    for part in password.split("."):
        assert len(part) < 8 or part not in logged.getvalue()


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_every_algorithm_on_the_list(tmp_path: Path, algorithm: str) -> None:
    """Each of the three HMAC algorithms is good where it is listed, and no other one then."""
    async with tokens_with(tmp_path, algorithms=(algorithm,)) as service:
        verdicts = {
            other: (await service.login("u1", token(algorithm=other), "s1:1"))["result"]
            for other in ("HS256", "HS384", "HS512")
        }
    assert verdicts == {other: "allow" if other == algorithm else "deny" for other in verdicts}


@pytest.mark.parametrize("secret", [SECRET, OTHER_SECRET])
async def test_each_secret_of_a_rotation(tmp_path: Path, logged: io.StringIO, secret: str) -> None:
    """While a secret is being replaced, tokens of the old and of the new one are good, and expire alike."""
    async with tokens_with(tmp_path, secrets=(OTHER_SECRET, SECRET)) as service:
        assert (await service.login("u1", token(secret), "s1:1"))["result"] == "allow"
        assert (await service.login("u1", token(secret, exp=1), "s1:1"))["result"] == "deny"
        assert (await service.login("u1", token("x" * 64), "s1:1"))["result"] == "deny"
        assert [audit.reason for audit in await service.audits(3)] == ["token", "token_expired", "token_invalid"]
    assert secret not in logged.getvalue()


async def test_expire_at_is_exp(service: Service) -> None:
    """EMQX is told the end of the token, as a whole number, also when the token says it with a fraction."""
    exp = in_seconds(500)
    for said in (exp, exp + 0.75):
        answer = await service.login("u1", token(exp=said), "s1:1")
        assert answer == {"result": "allow", "expire_at": exp}
        assert type(answer["expire_at"]) is int


async def test_expire_at_within_the_leeway(service: Service) -> None:
    """A token that is good only by the leeway ends with the leeway: EMQX refuses an end that has passed."""
    exp = in_seconds(-10)
    answer = await service.login("u1", token(exp=exp), "s1:1")
    assert answer == {"result": "allow", "expire_at": exp + LEEWAY}
    assert answer["expire_at"] > in_seconds(0)


async def test_the_same_token_again(service: Service) -> None:
    """A token that is presented again gets the same answer, from the cache, and still only the right client gets it."""
    known = token()
    first = await service.login("u1", known, "s1:1")
    assert [await service.login("u1", known, "s1:1") for _ in range(3)] == [first] * 3
    assert await service.metric("companion_cache_lookups_total", cache="token", outcome="hit") == 3
    assert (await service.login("u1", known, "s1:2"))["result"] == "allow"
    assert (await service.login("u1", known, "s2:1"))["result"] == "deny"
    assert (await service.login("u2", known, "s1:1"))["result"] == "deny"


async def test_a_token_that_expires_in_the_cache(tmp_path: Path, logged: io.StringIO) -> None:
    """That a token was good once does not make it good after its end."""
    async with tokens_with(tmp_path, token_leeway=0) as service:
        known = token(exp=in_seconds(3))
        assert (await service.login("u1", known, "s1:1"))["result"] == "allow"

        async def expired() -> bool:
            return await service.login("u1", known, "s1:1") == {"result": "deny"}

        await eventually(expired, what="the token has expired")
    *before, last = [line["reason"] for line in decisions(logged)]
    assert set(before) == {"token"}
    assert last == "token_expired"


async def test_an_account_that_is_disabled_stops_a_known_token(service: Service) -> None:
    """A token that is in the cache is of no use once the account of its principal is disabled."""
    await service.store.accounts.add([account_of("u1", "secret")])
    known = token()
    assert (await service.login("u1", known, "s1:1"))["result"] == "allow"
    await service.store.accounts.set_disabled("u1", disabled=True)

    async def refused() -> bool:
        return await service.login("u1", known, "s1:1") == {"result": "deny"}

    await eventually(refused, what="the token is refused")


async def test_without_secrets_there_are_no_tokens(hooks: Service, logged: io.StringIO) -> None:
    """Where no secret is configured a token is a password like any other."""
    assert (await hooks.login("u1", token(), "s1:1"))["result"] == "deny"
    assert (await only_trace(hooks, logged, "auth")).reason == "unknown_user"


async def test_an_unsigned_token_with_an_empty_secret(tmp_path: Path) -> None:
    """Signing with nothing is no signature, whatever the header says."""
    forged = f"{segment({'alg': 'HS256'})}.{segment(claims_of())}."
    async with tokens_with(tmp_path) as service:
        answers = await asyncio.gather(
            *(service.login("u1", forged + signature, "s1:1") for signature in ("", "A", "AAAA"))
        )
    assert answers == [{"result": "deny"}] * 3


async def test_an_account_that_ends_before_the_token(service: Service) -> None:
    """When the principal has an account that expires sooner than its token, the session ends with the account."""
    ends = in_seconds(60)
    await service.store.accounts.add([account_of("u1", "secret", expires_at=ends)])
    assert await service.login("u1", token(), "s1:x") == {"result": "allow", "expire_at": ends}
