"""Documents in MongoDB that somebody else wrote: what cannot be understood lets nobody in."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from companion.core.errors import Invalid, Permanent, Transient
from companion.core.model import Account, Kind
from companion.core.rules import EVERYONE, Effect, RuleAction
from companion.stores.mongo import MongoConfig, indexes, open_mongo
from tests.support import mongo
from tests.support.entities import account
from tests.support.eventually import eventually
from tests.support.mongo import MongoPorts
from tests.support.mosquitto import free_port
from tests.support.proxy import proxied


@pytest.fixture
async def ports(tmp_path: Path) -> AsyncIterator[MongoPorts]:
    async with mongo.adapter(tmp_path)() as opened:
        yield opened


async def test_the_least_account(ports: MongoPorts) -> None:
    """A user name and a hash are enough: a user whose principal is the user name."""
    await ports.client.database["mqtt_accounts"].insert_one({"username": "alice", "password_hash": "$2b$04$x"})
    assert await ports.accounts.get("alice") == Account("alice", Kind.USER, "alice", "$2b$04$x")


async def test_what_the_driver_says(logged: io.StringIO, ports: MongoPorts) -> None:
    """At the most talkative level too, no document that goes to or comes from MongoDB stands in the log."""
    await ports.accounts.add([account("alice")])
    assert await ports.accounts.get("alice") == account("alice")
    assert account("alice").password_hash not in logged.getvalue()
    assert "alice" not in logged.getvalue()


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "robot"},
        {"kind": 7},
        {"principal": None},
        {"password_hash": 5},
        {"disabled": "no"},
        {"disabled": 0},
        {"expires_at": "tomorrow"},
        {"expires_at": True},
        {"subjects": "a@b"},
        {"subjects": [1]},
        {"groups": "night"},
        {"groups": [None]},
        {"tenant": 7},
    ],
    ids=str,
)
async def test_an_account_that_is_not_understood(ports: MongoPorts, fields: dict[str, Any]) -> None:
    """A field of another type or value disables the account, whatever the others say."""
    document = {"username": "alice", "password_hash": "$2b$04$x", **fields}
    await ports.client.database["mqtt_accounts"].insert_one(document)
    found = await ports.accounts.get("alice")
    assert found is not None
    assert (found.disabled, found.password_hash) == (True, "")


@pytest.mark.parametrize(
    "fields",
    [
        {"filter": "a/#/b"},
        {"qos": [3]},
        {"qos": "0"},
        {"action": "read"},
        {"filter": None},
        {"windows": [{"cron": "0 8 * * *"}]},
        {"windows": {"cron": "0 8 * * *", "duration": 60}},
        {"windows": ""},
        {"locations": ["here"]},
        {"locations": "10.0.0.0/8"},
    ],
    ids=str,
)
async def test_a_rule_that_is_not_understood(ports: MongoPorts, fields: dict[str, Any]) -> None:
    """An allow that cannot be enforced allows nothing; a deny then denies everything to its subject."""
    whole = {"subject": EVERYONE, "action": "publish", "filter": "a/#", "qos": [0, 1, 2], "retain": None}
    rules = ports.client.database["mqtt_rules"]
    await rules.insert_one({**whole, "effect": "allow", **fields})
    assert list(await ports.rules.of([EVERYONE])) == []
    await rules.insert_one({**whole, "effect": "deny", **fields})
    (rule,) = await ports.rules.of([EVERYONE])
    assert (rule.effect, rule.action, rule.filter) == (Effect.DENY, RuleAction.ALL, "#")


async def test_indexes(ports: MongoPorts) -> None:
    """All are made at the start, also by several at once; one that was dropped is known to be missing, with its purpose."""
    await asyncio.gather(*(indexes.ensure(ports.client) for _ in range(5)))
    assert await indexes.missing(ports.client) == []
    await ports.client.database["mqtt_rules"].drop_index("subject_1")
    (index,) = await indexes.missing(ports.client)
    assert (index.collection, index.purpose) == ("mqtt_rules", "finds the rules of whoever connects")


@pytest.mark.parametrize(
    "url", ["http://localhost", "mongodb://", "mongodb://host:port", "mongodb://u:s3cret@h/?w=x&x"]
)
async def test_an_address_that_is_none(url: str) -> None:
    """The setting is named; the address, which holds a password, is not shown."""
    with pytest.raises(Invalid, match="mongo_url") as refused:
        async with open_mongo(MongoConfig(url)):
            pass
    assert "s3cret" not in str(refused.value)


async def test_nobody_listens() -> None:
    """Without MongoDB a call ends soon; after some the next ones end at once."""
    async with open_mongo(MongoConfig(f"mongodb://127.0.0.1:{free_port()}/?replicaSet=rs0", timeout=0.3)) as client:
        for _ in range(3):
            assert "mongodb" in str(await client.trouble())
        begun = time.monotonic()
        assert "mongodb is away" in str(await client.trouble())
        assert time.monotonic() - begun < 0.2


async def test_a_black_hole(tmp_path: Path) -> None:
    """A MongoDB that does not answer is `Transient` in time, and found back without a restart."""
    del tmp_path
    if mongo.URL:
        pytest.skip("a real MongoDB may be behind TLS: the proxy stands before the stand-in")
    port = int(mongo.shared_url().partition("127.0.0.1:")[2].partition("/")[0])
    async with proxied(port) as proxy:
        # Directly: a replica set would tell its members' own addresses.
        url = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
        async with mongo.opened(url, "test-black-hole", timeout=0.5) as ports:
            await ports.accounts.get("alice")
            proxy.swallow()
            begun = time.monotonic()
            with pytest.raises(Transient):
                await ports.accounts.get("alice")
            assert time.monotonic() - begun < 3
            proxy.heal()

            async def back() -> bool:
                return await ports.client.trouble() is None

            await eventually(back, what="MongoDB is back")


async def test_a_closed_client_says_so(tmp_path: Path) -> None:
    """Who asks after the end gets an error of ours."""
    async with mongo.adapter(tmp_path)() as ports:
        await ports.accounts.add([account("alice")])
    with pytest.raises(Permanent, match="closed"):
        await ports.accounts.get("alice")
