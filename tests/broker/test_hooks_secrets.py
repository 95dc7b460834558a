"""Several secrets of one account, hashes that become bcrypt, and when a secret was last used."""

from __future__ import annotations

import hashlib
import io
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import argon2
import pytest

from broker_hooks import uses
from broker_hooks.hashing import hash_password
from broker_hooks.uses import name_of_secret
from companion.core.model import Account, AccountSecret, Kind
from companion.core.password_hashes import Bcrypt, parse_password_hash, plain, salted
from tests.support.eventually import eventually
from tests.support.jwts import in_seconds
from tests.support.service import Service, account_of, serving
from tests.support.traces import decisions, only_trace

ARGON2 = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


def secret(text: str, beside: str = "", **times: Any) -> AccountSecret:
    return AccountSecret("s1", hash_password(text, 4, beside), **times)


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "the password": ("password", "main", {}),
    "the other secret": ("password", "other", {}),
    "neither": ("wrong_password", "third", {}),
    "not yet": ("secret_not_yet", "other", {"not_before": in_seconds(3600)}),
    "not any more": ("secret_expired", "other", {"not_after": in_seconds(-1)}),
    "within its time": ("password", "other", {"not_before": 0, "not_after": in_seconds(3600)}),
    "the password, whatever the other": ("password", "main", {"not_after": 1}),
    "wrong, while the other has expired": ("wrong_password", "third", {"not_after": 1}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shared", [True, False])
async def test_two_secrets(hooks: Service, logged: io.StringIO, name: str, *, shared: bool) -> None:
    """Each is good in its own time, with a salt of its own or the same; why one is not is told when it was right."""
    expected, password, times = CASES[name]
    account = account_of("alice", "main")
    other = secret("other", beside=account.password_hash if shared else "", **times)
    assert (other.password_hash[:29] == account.password_hash[:29]) is shared
    await hooks.store.accounts.add([Account("alice", Kind.USER, "alice", account.password_hash, secrets=(other,))])
    await hooks.login("alice", password)
    assert (await only_trace(hooks, logged, "auth")).reason == expected


async def test_a_rotation(hooks: Service) -> None:
    """A secret that another process adds works soon, one that is taken away soon does not, and the password always does."""
    await hooks.store.accounts.add([account_of("alice", "old")])
    assert (await hooks.login("alice", "old"))["result"] == "allow"
    await hooks.store.accounts.add_secret("alice", secret("new"))

    async def admitted() -> bool:
        assert (await hooks.login("alice", "old"))["result"] == "allow"
        return bool((await hooks.login("alice", "new"))["result"] == "allow")

    await eventually(admitted, what="the new secret works")
    await hooks.store.accounts.remove_secret("alice", "s1")

    async def refused() -> bool:
        return await hooks.login("alice", "new") == {"result": "deny"}

    await eventually(refused, what="the secret is refused")
    assert (await hooks.login("alice", "old"))["result"] == "allow"


async def test_secrets_of_several_kinds(hooks: Service) -> None:
    """A password in one encoding and secrets in others; one that nobody can check is no harm to those beside it."""
    others = (
        AccountSecret("a", ARGON2.hash("argon")),
        AccountSecret("p", plain("plain")),
        AccountSecret("x", "$2b$03$" + "." * 53),
        AccountSecret("b", hash_password("bcrypt", 4)),
    )
    await hooks.store.accounts.add([Account("alice", Kind.USER, "alice", "", secrets=others)])
    for text in ("argon", "plain", "bcrypt"):
        assert (await hooks.login("alice", text))["result"] == "allow"
    for text in ("no hash at all", "x" * 100, "a\0b", "other"):
        assert (await hooks.login("alice", text))["result"] == "deny"


@pytest.mark.parametrize("hashes", [("no hash", "$2y$99$" + "." * 53), ("$2b$03$" + "." * 53, "$2b$02$" + "." * 53)])
async def test_secrets_that_nobody_can_check(hooks: Service, logged: io.StringIO, hashes: tuple[str, str]) -> None:
    """Where no secret can be checked, that is the reason."""
    secrets = (AccountSecret("a", hashes[1]),)
    await hooks.store.accounts.add([Account("alice", Kind.USER, "alice", hashes[0], secrets=secrets)])
    assert await hooks.login("alice", "x") == {"result": "deny"}
    assert (await only_trace(hooks, logged, "auth")).reason == "unusable_hash"


def _bring(text: str) -> dict[str, str]:
    """Return a password in the encodings that people bring."""
    derived = hashlib.pbkdf2_hmac("sha512", text.encode(), b"salt", 100)
    digest = hashlib.sha512(text.encode() + b"salty").digest()
    return {
        "argon2id": ARGON2.hash(text),
        "mosquitto": f"$7$100${b64encode(b'salt').decode()}${b64encode(derived).decode()}",
        "mosquitto before 2.0": f"$6${b64encode(b'salty').decode()}${b64encode(digest).decode()}",
        "go-auth": f"PBKDF2$sha512$100${b64encode(b'salt').decode()}${b64encode(derived).decode()}",
        "salted": salted("sha256", "prefix", "salt", hashlib.sha256(f"salt{text}".encode()).hexdigest()),
        "plain": plain(text),
        "cheaper bcrypt": hash_password(text, 4),
    }


@pytest.mark.parametrize("name", _bring("x"))
async def test_a_hash_becomes_bcrypt(tmp_path: Path, name: str) -> None:
    """After one login the account has a bcrypt hash of its password, at the cost of new ones; a refused login changes nothing."""
    text = "a pässword"
    async with serving(tmp_path, password_cost=5) as service:
        brought = Account("alice", Kind.USER, "alice", _bring(text)[name])
        await service.store.accounts.add([brought])
        assert (await service.login("alice", "wrong"))["result"] == "deny"
        assert await service.store.accounts.get("alice") == brought
        assert (await service.login("alice", text))["result"] == "allow"

        async def replaced() -> bool:
            found = await service.store.accounts.get("alice")
            assert found is not None
            known = parse_password_hash(found.password_hash)
            return isinstance(known, Bcrypt) and known.cost == 5

        await eventually(replaced, what="the hash is replaced")
        assert await service.metric("companion_password_rehashes_total", outcome="replaced") == 1
        assert (await service.login("alice", text))["result"] == "allow"
        assert (await service.login("alice", "wrong"))["result"] == "deny"


async def test_what_stays_as_it_is(tmp_path: Path) -> None:
    """A password that bcrypt cannot hold, a disabled account, a hash that is good, and everything where it is not wanted."""
    long = "x" * 100
    accounts = [
        Account("long", Kind.USER, "long", plain(long)),
        Account("disabled", Kind.USER, "disabled", plain("secret"), disabled=True),
        account_of("good", "secret"),
    ]
    async with serving(tmp_path / "a") as service:
        await service.store.accounts.add(accounts)
        assert (await service.login("long", long))["result"] == "allow"
        assert (await service.login("disabled", "secret"))["result"] == "deny"
        assert (await service.login("good", "secret"))["result"] == "allow"

        async def failed() -> bool:
            return any(
                labels["outcome"] == "failed"
                for labels, _ in await service.samples("companion_password_rehashes_total")
            )

        await eventually(failed, what="the long one was tried")
        assert sorted(await service.store.accounts.list(), key=lambda one: one.username) == sorted(
            accounts, key=lambda one: one.username
        )
    async with serving(tmp_path / "b", password_rehash=False) as service:
        await service.store.accounts.add([Account("alice", Kind.USER, "alice", plain("secret"))])
        assert (await service.login("alice", "secret"))["result"] == "allow"
        assert await service.samples("companion_password_rehashes_total") == []


async def test_a_planted_hash_burns_nothing(hooks: Service, logged: io.StringIO) -> None:
    """Whatever cost stands in a hash: beyond the ceiling it is refused at once."""
    salt, digest = "c2FsdHNhbHQ", "A" * 43
    planted = [
        f"$argon2id$v=19$m=4194304,t=1,p=1${salt}${digest}",
        f"$argon2id$v=19$m=65536,t=9999,p=1${salt}${digest}",
        f"$argon2id$v=19$m=65536,t=1,p=255${salt}${digest}",
        f"PBKDF2$sha512$999999999$c2FsdA==${b64encode(b'x' * 64).decode()}",
        f"PBKDF2$sha256$100000$c2FsdA==${b64encode(b'x' * 100_000).decode()}",
        "$2b$31$" + "." * 53,
    ]
    names = [f"planted-{number}" for number in range(len(planted))]
    await hooks.store.accounts.add(
        [Account(name, Kind.USER, name, text) for name, text in zip(names, planted, strict=True)]
    )
    started = time.monotonic()
    for name in names:
        assert (await hooks.login(name, "x"))["result"] == "deny"
    assert time.monotonic() - started < 5
    assert {line["reason"] for line in decisions(logged)} == {"unusable_hash"}


async def test_when_a_secret_was_last_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password and the other secret have times of their own; a refused login leaves none; the end of the service writes."""
    monkeypatch.setattr(uses, "_FLUSH_SECONDS", 0.05)
    before = int(time.time())
    async with serving(tmp_path) as service:
        await service.store.accounts.add([account_of("alice", "main", secrets=(secret("other"),))])
        await service.login("alice", "wrong")
        await service.login("alice", "other")
        names = [name_of_secret("alice"), name_of_secret("alice", "s1")]

        async def noted() -> bool:
            return names[1] in await service.store.uses.latest(names)

        await eventually(noted, what="the use is noted")
        found = await service.store.uses.latest(names)
        assert list(found) == [names[1]]
        assert before <= found[names[1]] <= time.time()
        monkeypatch.setattr(uses, "_FLUSH_SECONDS", 3600)
        await service.login("alice", "main")
    async with serving(tmp_path) as service:
        assert set(await service.store.uses.latest(names)) == set(names)
