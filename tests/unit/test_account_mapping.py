"""Documents of other people's collections as accounts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest
from bson import ObjectId

from companion.account_sources import AccountSource
from companion.core.model import Account, AccountSecret, Kind
from companion.core.password_hashes import plain, salted
from companion.core.rules import Effect, RuleAction
from companion.stores.mongo.mapping import account_of, names_of, query_of

ONE = ObjectId("64b7f0c2a3d4e5f601234567")
BCRYPT = "$2b$04$" + "." * 53


def source(like: str, **changes: Any) -> AccountSource:
    return AccountSource.model_validate({"like": like, **changes})


def read(like: str, document: Mapping[str, Any], **changes: Any) -> Account:
    return account_of(source(like, **changes), document, "alice")


def test_the_platforms_collections() -> None:
    """A user, a device and a client of the platform, as they are stored."""
    user = {"_id": ONE, "username": "alice", "password": BCRYPT, "status": "ACTIVE", "subjects": ["alice@a.org", 7]}
    assert read("users", user) == Account("alice", Kind.USER, str(ONE), BCRYPT, subjects=("alice@a.org",))
    assert read("devices", {"_id": ONE, "token": "t"}) == Account("alice", Kind.DEVICE, str(ONE), plain("t"))
    client = {
        "_id": ONE,
        "client_id": "c",
        "client_secret": "s",
        "expiration_date": dt.datetime(2030, 1, 1, tzinfo=dt.UTC),
    }
    assert read("clients", client) == Account(
        "alice", Kind.SERVICE, str(ONE), plain("s"), expires_at=1_893_456_000, tenant=str(ONE)
    )
    token = {"_id": ONE, "aid": "app", "cid": "client", "expires_at": 1_893_456_000_123, "token": BCRYPT}
    assert read("apts", token) == Account(
        "alice", Kind.SERVICE, "app", BCRYPT, expires_at=1_893_456_000, tenant="client"
    )


def test_groups_and_tenants() -> None:
    """What somebody belongs to is read where the settings say; groups may be ids, and what is no list of names lets nobody in."""
    user = {"_id": ONE, "username": "alice", "password": BCRYPT}
    assert read("users", {**user, "groups": ["a.org", ONE]}).groups == ("a.org", str(ONE))
    assert not read("users", {**user, "groups": []}).disabled
    assert not read("users", {**user, "groups": None}).disabled
    for wrong in ("a.org", ["a.org", 7], [None], {"a": 1}, [""]):
        found = read("users", {**user, "groups": wrong})
        assert found.disabled
        assert found.groups == ()
    elsewhere = read("users", {**user, "in": {"teams": ["x"], "firm": "acme"}}, groups="in.teams", tenant="in.firm")
    assert (elsewhere.groups, elsewhere.tenant) == (("x",), "acme")
    assert read("users", {**user, "firm": ["acme"]}, tenant="firm").tenant == ""


def test_further_secrets() -> None:
    """A list of secrets with their times; one that cannot be understood disables the account."""
    listed = [
        {"password_hash": BCRYPT, "not_after": dt.datetime(2030, 1, 1, tzinfo=dt.UTC)},
        {"id": "b", "password_hash": "x", "not_before": 1_893_456_000_000},
    ]
    found = read("users", {"_id": ONE, "password": BCRYPT, "credentials": listed}, secrets="credentials")
    assert found.secrets == (
        AccountSecret("0", BCRYPT, not_after=1_893_456_000),
        AccountSecret("b", "x", not_before=1_893_456_000),
    )
    assert found.foreign
    assert not found.disabled
    devices = {"secrets": "more", "secrets_hash": "value", "secrets_not_after": "until"}
    token = read("devices", {"_id": ONE, "token": "t", "more": [{"value": "u", "until": 7}]}, **devices)
    assert token.secrets == (AccountSecret("0", plain("u"), not_after=7),)
    bad_lists: list[Any] = ["x", [1], [{"not_before": "soon"}], [{}] * 5, {}]
    for bad in bad_lists:
        assert read("users", {"_id": ONE, "password": BCRYPT, "more": bad}, secrets="more").disabled


def test_attributes_for_the_broker() -> None:
    """Each from its field, as text; what has none is left out. A superuser is known as one."""
    attributes = {"id": "_id", "tenant": "org.id", "n": "n", "none": "x", "list": "l"}
    document = {"_id": ONE, "password": BCRYPT, "org": {"id": "t1"}, "n": 7, "l": [1], "root": True}
    found = read("users", document, attributes=attributes, superuser="root")
    assert found.attributes == {"id": str(ONE), "tenant": "t1", "n": "7"}
    assert found.superuser
    assert not read("users", document | {"root": 1}, superuser="root").superuser
    pins: list[tuple[Any, tuple[str, ...]]] = [("cn:a", ("cn:a",)), (["cn:a", "b", 7], ("cn:a",)), (None, ()), (7, ())]
    for value, expected in pins:
        assert read("users", document | {"pins": value}, certificates="pins").certificates == expected
    assert {"org.id", "n", "root"} <= source("users", attributes=attributes, superuser="root").fields


def test_emqx_and_go_auth() -> None:
    """Both schemas, superusers and access lists too."""
    emqx = read("emqx", {"username": "alice", "password_hash": "ab" * 32, "salt": "s", "is_superuser": True})
    assert emqx.password_hash == salted("sha256", "prefix", "s", "ab" * 32)
    assert [(rule.effect, rule.action, rule.filter) for rule in emqx.rules] == [
        (Effect.ALLOW, RuleAction.ALL, "#"),
        (Effect.ALLOW, RuleAction.ALL, "$SYS/#"),
    ]
    common = [{"topic": "all/%u/%c/#", "acc": 3}]
    user = {"username": "alice", "password": BCRYPT, "superuser": False, "acls": [{"topic": "%u/x", "acc": 2}]}
    go_auth = account_of(source("go-auth"), user, "alice", common)
    assert go_auth.password_hash == BCRYPT
    assert [(rule.action, rule.filter, rule.id) for rule in go_auth.rules] == [
        (RuleAction.PUBLISH, "%u/x", "mosquitto.users:%u/x"),
        (RuleAction.ALL, "all/${username}/${clientid}/#", "mosquitto.acls:all/%u/%c/#"),
    ]


@pytest.mark.parametrize(
    ("document", "disabled"),
    [
        ({}, False),
        ({"status": "Active"}, False),
        ({"status": "BLOCKED"}, True),
        ({"status": ""}, True),
        ({"status": 1}, True),
        ({"status": None}, False),
        ({"deleted_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}, True),
        ({"deleted_at": None}, False),
        ({"expiration_date": "soon"}, True),
        ({"expiration_date": True}, True),
        ({"expiration_date": -1}, True),
        ({"expiration_date": float("nan")}, True),
        ({"_id": 7}, True),
    ],
)
def test_who_may_not_be_used(document: Mapping[str, Any], *, disabled: bool) -> None:
    """Another status, a deletion, an expiry that is none, no principal: the account is disabled."""
    assert read("clients", {"_id": ONE, "client_secret": "s", **document}).disabled is disabled


@pytest.mark.parametrize("secret", [None, "", 7, b"\xff", ["x"], {"hash": "x"}])
def test_secrets_that_are_none(secret: object) -> None:
    """Nobody logs in with them."""
    document = {"username": "alice", "password_hash": secret}
    for secret_format in ("sha256", "sha512", "pbkdf2-sha256", "pbkdf2-sha512"):
        assert read("emqx", document, secret_format=secret_format).password_hash == ""
    assert read("emqx", document, secret_format="hash").password_hash in {"", "\ufffd"}


def test_a_salt_that_is_none() -> None:
    """A hash whose salt cannot be read is no hash; one without a salt has none."""
    document = {"username": "alice", "password_hash": "ab" * 32}
    assert read("emqx", {**document, "salt": 7}).password_hash == ""
    assert read("emqx", document).password_hash == salted("sha256", "prefix", "", "ab" * 32)
    assert read("emqx", document, secret_format="pbkdf2-sha512", iterations=9).password_hash.startswith(
        "PBKDF2$sha512$9$$"
    )


def test_names() -> None:
    """A document is looked for by each of its names, an id as text and as ObjectId; a path leads into a document."""
    users = source("users")
    assert query_of(users, "alice") == {"$or": [{"_id": "alice"}, {"username": "alice"}]}
    both = {"$in": [str(ONE), ONE]}
    assert query_of(users, str(ONE)) == {"$or": [{"_id": both}, {"username": both}]}
    assert query_of(source("emqx"), "alice") == {"username": "alice"}
    assert names_of(users, {"_id": ONE, "username": "alice"}) == [str(ONE), "alice"]
    deep = source("users", username=["login.name"], secret="login.hash", principal=[])
    document = {"login": {"name": "alice", "hash": BCRYPT}}
    assert names_of(deep, document) == ["alice"]
    assert account_of(deep, document, "alice") == Account("alice", Kind.USER, "alice", BCRYPT)
    assert names_of(deep, {"login": "alice"}) == []
