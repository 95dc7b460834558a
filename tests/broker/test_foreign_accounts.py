"""Accounts and rules that others keep in MongoDB, read as they are: the platform's, EMQX's, mosquitto-go-auth's."""

from __future__ import annotations

import hashlib
import json
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo import AsyncMongoClient

from broker_hooks.hashing import hash_password
from companion.core.rules import Effect, Rule, RuleAction, subject_of_account
from companion.stores.mongo import indexes
from companion.stores.mongo.client import MongoConfig, open_mongo
from tests.support import mongo, redis
from tests.support.eventually import eventually
from tests.support.jwts import SECRET, token
from tests.support.production import settings_of
from tests.support.service import Service, account_of, serving


@dataclass(frozen=True, slots=True)
class House:
    """A service, and the databases that others fill."""

    service: Service
    client: AsyncMongoClient[dict[str, Any]]
    own: str

    def db(self, name: str) -> Any:
        return self.client[f"{self.own}-{name}"]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    url, own = mongo.shared_url(), f"test-{secrets.token_hex(4)}"
    accounts = [
        *(
            {"like": like, "collection": f"{own}-{db}.{name}"}
            for like, db, name in (
                ("users", "identity", "users"),
                ("devices", "thing", "devices"),
                ("clients", "domain", "clients"),
                ("emqx", "mqtt", "mqtt_user"),
            )
        ),
        {"like": "go-auth", "collection": f"{own}-mosquitto.users", "common_acls": f"{own}-mosquitto.acls"},
    ]
    rules = [
        {"like": "grants", "collection": f"{own}-auth.grants"},
        {"like": "emqx", "collection": f"{own}-mqtt.mqtt_acl"},
    ]
    settings: dict[str, Any] = {
        **settings_of(url, redis.shared_server(redis.debian_redis()).url),
        "mongo_accounts": json.dumps(accounts),
        "mongo_rules": json.dumps(rules),
        "mongo_timeout": 2.5,
        "token_secrets": (SECRET,),
    }
    async with AsyncMongoClient[dict[str, Any]](url) as client, serving(tmp_path, **settings) as service:
        yield House(service, client, own)


async def test_the_platform(house: House) -> None:
    """Users by name or id, devices by token, clients by secret: each gets its own topics; a wrong secret is refused."""
    user, device, app = ObjectId(), ObjectId(), ObjectId()
    hashed = hash_password("secret", 4)
    await house.db("identity").users.insert_one(
        {"_id": user, "username": "alice", "password": hashed, "status": "ACTIVE"}
    )
    await house.db("thing").devices.insert_one({"_id": device, "name": "lamp", "token": "t0ken"})
    await house.db("domain").clients.insert_one({"_id": app, "client_id": "shop", "client_secret": "s3cret"})
    for name, secret, principal in (
        ("alice", "secret", user),
        (str(user), "secret", user),
        (str(device), "t0ken", device),
        ("shop", "s3cret", app),
    ):
        assert (await house.service.login(name, secret))["result"] == "allow"
        assert (await house.service.login(name, secret + "!"))["result"] == "deny"
        assert await house.service.may(name, "subscribe", f"{principal}/thing/#")
        assert not await house.service.may(name, "subscribe", f"{ObjectId()}/#")
    assert (await house.service.login("lamp", "t0ken"))["result"] == "deny"


async def test_emqx(house: House) -> None:
    """EMQX's own schema: a salted hash, a superuser, rules by user name that deny and allow."""
    users, acl = house.db("mqtt").mqtt_user, house.db("mqtt").mqtt_acl
    digest = hashlib.sha256(b"saltpublic").hexdigest()
    for name, superuser in (("device", False), ("root", True)):
        await users.insert_one({"username": name, "password_hash": digest, "salt": "salt", "is_superuser": superuser})
    allow = {"username": "device", "permission": "allow", "action": "all", "topics": ["t/#", "c/${clientid}"]}
    deny = {"username": "device", "permission": "deny", "action": "publish", "topics": ["t/secret"], "qos": 1}
    await acl.insert_many([allow, deny])
    service = house.service
    assert (await service.login("device", "public"))["result"] == "allow"
    assert (await service.login("device", "wrong"))["result"] == "deny"
    assert await service.may("device", "publish", "t/1", qos="1")
    assert await service.may("device", "publish", "c/c1")
    assert not await service.may("device", "publish", "c/c2")
    assert not await service.may("device", "publish", "t/secret", qos="1")
    assert await service.may("device", "publish", "t/secret", qos="0")
    assert (await service.login("root", "public"))["result"] == "allow"
    assert await service.may("root", "subscribe", "#")
    assert await service.may("root", "subscribe", "$SYS/#")
    assert not await service.may("device", "subscribe", "#")


async def test_go_auth(house: House) -> None:
    """mosquitto-go-auth's schema: PBKDF2, the user's own list, the list of all, a superuser."""
    salt, digest = b"0123456789abcdef", hashlib.pbkdf2_hmac("sha512", b"secret", b"0123456789abcdef", 1000)
    hashed = f"PBKDF2$sha512$1000${_b64(salt)}${_b64(digest)}"
    users, acls = house.db("mosquitto").users, house.db("mosquitto").acls
    await users.insert_one({"username": "bob", "password": hashed, "acls": [{"topic": "own/#", "acc": 3}]})
    await users.insert_one({"username": "root", "password": hashed, "superuser": True})
    await acls.insert_many([{"topic": "all/%u/#", "acc": 2}, {"topic": "news", "acc": 1}, {"topic": "news", "acc": 4}])
    service = house.service
    assert (await service.login("bob", "secret"))["result"] == "allow"
    assert (await service.login("bob", "wrong"))["result"] == "deny"
    assert await service.may("bob", "publish", "own/x")
    assert await service.may("bob", "publish", "all/bob/x")
    assert not await service.may("bob", "subscribe", "all/bob/x")
    assert not await service.may("bob", "publish", "all/root/x")
    assert await service.may("bob", "subscribe", "news")
    assert not await service.may("bob", "publish", "news")
    assert await service.may("root", "publish", "anything/at/all")


async def test_names_that_several_have(house: House) -> None:
    """Ours come first; nobody gets a name that others have too; an id belongs to its owner, whoever chose it as a name."""
    hashed = hash_password("secret", 4)
    victim = ObjectId()
    users = house.db("identity").users
    await users.insert_many(
        [
            {"_id": victim, "username": "victim", "password": hash_password("victim's", 4)},
            {"_id": ObjectId(), "username": str(victim), "password": hashed},
            {"_id": ObjectId(), "username": "shop", "password": hashed},
            {"_id": ObjectId(), "username": "twice", "password": hashed},
            {"_id": ObjectId(), "username": "twice", "password": hashed},
            {"_id": ObjectId(), "username": "ours", "password": hashed},
        ]
    )
    await house.db("domain").clients.insert_one({"_id": ObjectId(), "client_id": "shop", "client_secret": "secret"})
    service = house.service
    await service.store.accounts.add([account_of("ours", "our secret")])
    assert (await service.login(str(victim), "secret"))["result"] == "deny"
    assert (await service.login(str(victim), "victim's"))["result"] == "allow"
    for name in ("shop", "twice", "ours"):
        assert (await service.login(name, "secret"))["result"] == "deny"
    assert (await service.login("ours", "our secret"))["result"] == "allow"


async def test_what_others_change_is_felt(house: House) -> None:
    """A user that is blocked, a rule, a grant or an access that is taken away: felt soon, without a word of ours."""
    service, user = house.service, ObjectId()
    users, grants = house.db("identity").users, house.db("auth").grants
    acl, common = house.db("mqtt").mqtt_acl, house.db("mosquitto").acls
    await users.insert_one(
        {"_id": user, "username": "alice", "password": hash_password("secret", 4), "subjects": ["a@b"]}
    )
    await acl.insert_one({"username": "alice", "permission": "allow", "action": "publish", "topics": ["acl"]})
    await grants.insert_one({"subject": "a@b", "action": "publish", "object": "grant"})
    hashed = f"PBKDF2$sha512$1${_b64(b'x')}${_b64(hashlib.pbkdf2_hmac('sha512', b'secret', b'x', 1))}"
    await house.db("mosquitto").users.insert_one({"username": "bob", "password": hashed})
    await common.insert_one({"topic": "common", "acc": 2})

    async def may(name: str, topic: str) -> bool:
        return await service.may(name, "publish", topic)

    async def gone(name: str, topic: str) -> None:
        async def refused() -> bool:
            return not await may(name, topic)

        await eventually(refused, what=f"{topic} is taken away")

    jwt = token(uid=str(user), session="s1")
    assert (await service.login(str(user), jwt, "s1:1"))["result"] == "allow"
    assert await service.may(str(user), "subscribe", f"{user}/#", "s1:1")
    for name, topic, collection in (("alice", "acl", acl), ("alice", "grant", grants), ("bob", "common", common)):
        assert await may(name, topic)
        await collection.delete_many({})
        await gone(name, topic)
    await users.update_one({"_id": user}, {"$set": {"status": "BLOCKED"}})

    async def blocked() -> bool:
        return not await service.may(str(user), "subscribe", f"{user}/#", "s1:1")

    await eventually(blocked, what="the platform's session is refused")
    assert (await service.login(str(user), jwt, "s1:1"))["result"] == "deny"
    assert (await service.login("alice", "secret"))["result"] == "deny"


async def test_our_rules_hold_for_all(house: House) -> None:
    """A stored rule of ours beats what others allow."""
    digest = hashlib.sha256(b"public").hexdigest()
    await house.db("mqtt").mqtt_user.insert_one({"username": "root", "password_hash": digest, "is_superuser": True})
    rule = Rule(subject_of_account("root"), Effect.DENY, RuleAction.ALL, "safe/#")
    await house.service.store.rules.add(rule)
    assert (await house.service.login("root", "public"))["result"] == "allow"
    assert not await house.service.may("root", "publish", "safe/1")
    assert not await house.service.may("root", "subscribe", "#")
    assert await house.service.may("root", "publish", "other")


async def test_indexes_of_others(house: House) -> None:
    """They are made where the collection is and no index serves, and nothing is made where it is not."""
    settings = house.service.settings
    # The service is making our own meanwhile.
    wanted = [one for one in indexes.wanted(settings.mongo_accounts, settings.mongo_rules) if one.database]
    users, clients = house.db("identity").users, house.db("domain").clients
    await users.insert_one({"username": "alice"})
    await clients.create_index([("client_id", 1), ("status", 1)])
    config = MongoConfig(settings.mongo_url.get_secret_value(), settings.mongo_database, 5.0)
    async with open_mongo(config) as client:
        assert [one.place for one in await indexes.missing(client, wanted)] == [f"{house.own}-identity.users"]
        await indexes.ensure(client, wanted)
        assert await indexes.missing(client, wanted) == []
    names = [one["name"] for one in await (await users.list_indexes()).to_list()]
    assert names == ["_id_", "username_1"]
    assert await house.db("mosquitto").list_collection_names() == []


def _b64(raw: bytes) -> str:
    return b64encode(raw).decode()
