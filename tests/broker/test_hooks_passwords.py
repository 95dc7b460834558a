"""Logins with a user name and a password: every verdict, its reason, and what it leaves behind."""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from companion.core.model import Account, Kind
from tests.support.eventually import eventually
from tests.support.service import Service, account_of, serving
from tests.support.traces import decisions, only_trace

LONG = "x" * 72
# No hash that bcrypt would make of anything is needed: the cost is read before the check.
REST_OF_HASH = "." * 53
YEAR_2100 = 4_102_444_800


@dataclass(frozen=True, slots=True)
class Login:
    """One attempt. `hash` stands in place of the account's real one; without `account` nobody has the name."""

    reason: str
    username: str = "alice"
    password: str = "secret"
    account: dict[str, Any] | None = field(default_factory=dict)
    stored: str = "secret"
    hash: str | None = None


LOGINS = {
    "right": Login("password"),
    "wrong": Login("wrong_password", password="Secret!"),
    "right but for a space": Login("wrong_password", password="secret "),
    "unknown": Login("unknown_user", account=None),
    "another case of the name": Login("unknown_user", username="Alice"),
    "the name with a space": Login("unknown_user", username="alice "),
    "disabled": Login("account_disabled", account={"disabled": True}),
    "disabled and wrong": Login("wrong_password", password="not this one", account={"disabled": True}),
    "expired": Login("account_expired", account={"expires_at": 1_000_000_000}),
    "expired at the beginning of time": Login("account_expired", account={"expires_at": 0}),
    "expired and wrong": Login("wrong_password", password="not this one", account={"expires_at": 1}),
    "disabled and expired": Login("account_disabled", account={"disabled": True, "expires_at": 1}),
    "to expire": Login("password", account={"expires_at": YEAR_2100}),
    "72 bytes": Login("password", password=LONG, stored=LONG),
    "73 bytes, of which 72 are right": Login("wrong_password", password=f"{LONG}x", stored=LONG),
    "72 bytes of UTF-8": Login("password", password="é" * 36, stored="é" * 36),
    "a thousand bytes": Login("wrong_password", password="x" * 1000),
    "a NUL behind the right one": Login("wrong_password", password="secret\0"),
    "a NUL in it": Login("wrong_password", password="sec\0ret"),
    "only a NUL": Login("wrong_password", password="\0"),
    "empty": Login("no_credentials", password=""),
    "no name": Login("no_credentials", username=""),
    "neither": Login("no_credentials", username="", password=""),
    "with every character": Login("password", password="p\"w\\+ %😀\t'", stored="p\"w\\+ %😀\t'"),
    "looks like a token": Login("password", password="eyJh.eyJh.eyJh", stored="eyJh.eyJh.eyJh"),
    "no hash": Login("unusable_hash", hash="secret"),
    "an empty hash": Login("unusable_hash", hash=""),
    "another kind of hash": Login("unusable_hash", hash="$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA"),
    "a hash that is cut": Login("unusable_hash", hash="$2b$04$" + REST_OF_HASH[1:]),
    "a hash with a line break": Login("unusable_hash", hash="$2b$04$" + REST_OF_HASH + "\n"),
    "a cost that bcrypt refuses": Login("unusable_hash", hash="$2b$03$" + REST_OF_HASH),
    "a cost that is none": Login("unusable_hash", hash="$2b$99$" + REST_OF_HASH),
    "a cost above the limit": Login("unusable_hash", hash="$2b$15$" + REST_OF_HASH),
    "a kind of bcrypt that nobody made": Login("unusable_hash", hash="$2x$04$" + REST_OF_HASH),
}


@pytest.mark.parametrize("name", LOGINS)
async def test_logins(hooks: Service, logged: io.StringIO, name: str) -> None:
    """The verdict is right; the metric, the log line and the audit record give the same reason, and nothing holds the password."""
    login = LOGINS[name]
    if login.account is not None:
        account = account_of("alice", login.stored, **login.account)
        if login.hash is not None:
            account = Account("alice", Kind.DEVICE, "alice", login.hash)
        await hooks.store.accounts.add([account])
    answer = await hooks.login(login.username, login.password, "c1")
    trace = await only_trace(hooks, logged, "auth")
    assert trace.reason == login.reason
    if login.reason == "password":
        expires_at = (login.account or {}).get("expires_at")
        assert answer == {"result": "allow"} | ({} if expires_at is None else {"expire_at": expires_at})
    else:
        assert answer == {"result": "deny"}
    if len(login.password) > 1:
        assert json.dumps(login.password)[1:-1] not in logged.getvalue()


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
async def test_bcrypt_of_every_origin(hooks: Service, prefix: str) -> None:
    """Hashes that other programs made are good: `$2a$` and `$2y$` are the same function."""
    made = account_of("alice", "secret")
    hashed = made.password_hash.replace("$2b$", prefix)
    await hooks.store.accounts.add([Account("alice", Kind.USER, "alice", hashed)])
    assert (await hooks.login("alice", "secret"))["result"] == "allow"
    assert (await hooks.login("alice", "wrong"))["result"] == "deny"


async def test_an_end_is_told_as_emqx_wants_it(hooks: Service) -> None:
    """`expire_at` is a whole number of seconds, the one stored; who has no end gets no such key, not even null."""
    ends = int(time.time()) + 60
    await hooks.store.accounts.add([account_of("soon", "secret", expires_at=ends), account_of("never", "secret")])
    answer = await hooks.login("soon", "secret")
    assert answer == {"result": "allow", "expire_at": ends}
    assert type(answer["expire_at"]) is int
    assert await hooks.login("never", "secret") == {"result": "allow"}


async def test_a_new_password_counts_soon(hooks: Service) -> None:
    """After another process has replaced a password, the old one is refused and the new one good."""
    await hooks.store.accounts.add([account_of("alice", "old")])
    assert (await hooks.login("alice", "old"))["result"] == "allow"
    await hooks.store.accounts.set_password("alice", account_of("alice", "new").password_hash)

    async def changed() -> bool:
        return await hooks.login("alice", "old") == {"result": "deny"}

    await eventually(changed, what="the old password is refused")
    assert (await hooks.login("alice", "new"))["result"] == "allow"


async def test_an_account_that_was_just_made(hooks: Service) -> None:
    """That somebody was unknown is not remembered: whoever is added by another process may connect at once."""
    assert (await hooks.login("alice", "secret"))["result"] == "deny"
    await hooks.store.accounts.add([account_of("alice", "secret")])
    assert (await hooks.login("alice", "secret"))["result"] == "allow"


@pytest.mark.parametrize("disabled_first", [True, False])
async def test_disabling_and_enabling_is_felt(hooks: Service, *, disabled_first: bool) -> None:
    """An account that another process disables or enables is refused or admitted soon after."""
    await hooks.store.accounts.add([account_of("alice", "secret", disabled=disabled_first)])
    before, after = ("deny", "allow") if disabled_first else ("allow", "deny")
    assert (await hooks.login("alice", "secret"))["result"] == before
    await hooks.store.accounts.set_disabled("alice", disabled=not disabled_first)

    async def changed() -> bool:
        return await hooks.login("alice", "secret") == {"result": after}

    await eventually(changed, what=f"the login is {after}")


async def test_only_the_configured_kinds_are_tried(tmp_path: Path, logged: io.StringIO) -> None:
    """With tokens alone, a right password is no credential."""
    async with serving(tmp_path, hooks_credentials=("token",)) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        assert await service.login("alice", "secret") == {"result": "deny"}
        assert (await only_trace(service, logged, "auth")).reason == "no_credentials"


@pytest.mark.parametrize(("decisions_logged", "reasons"), [("all", 2), ("refused", 1), ("none", 0)])
async def test_which_decisions_are_logged(
    tmp_path: Path, logged: io.StringIO, decisions_logged: str, reasons: int
) -> None:
    """The setting chooses the log lines; audit records and metrics do not depend on it."""
    async with serving(tmp_path, log_decisions=decisions_logged) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        await service.login("alice", "secret")
        await service.login("alice", "wrong")
        assert [audit.verdict for audit in await service.audits(2)] == ["allow", "deny"]
        assert sum(value for _, value in await service.samples("companion_hook_decisions_total")) == 2
    assert len(decisions(logged)) == reasons


async def test_a_sample_of_the_decisions_is_logged(tmp_path: Path, logged: io.StringIO) -> None:
    """With a sample of 0 no decision is logged, and every one is audited."""
    async with serving(tmp_path, log_sample=0.0) as service:
        await service.login("alice", "wrong")
        assert len(await service.audits(1)) == 1
    assert decisions(logged) == []
