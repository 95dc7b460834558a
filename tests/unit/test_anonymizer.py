"""The anonymizer, over the production stores: what of whom is replaced, what stays, and what is told about it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from bson import ObjectId, json_util

from companion.account_sources import AccountSource
from companion.anonymizing import MARK, TRACES, accounts_in_force, traces_in_force
from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.errors import Fenced, Invalid
from companion.core.model import Account, Kind
from companion.core.ports import Lease
from companion.core.pseudonyms import Pseudonyms, is_pseudonym
from companion.core.runs import Progress, Run, Trigger
from companion.leadership import Term
from companion.settings import Settings
from companion.stores.embedded import EmbeddedStore
from companion.stores.mongo import indexes
from companion.stores.production import ProductionStore, _indexes, opened_clients
from maintenance.anonymizer import Anonymizer
from maintenance.job import Work
from tests.support import mongo, redis
from tests.support.entities import audit
from tests.support.production import settings_of

KEY = "a key of the deployment, and a long one"
P = Pseudonyms(KEY).of
DAY = 86_400
NOW = time.time()


def old_id() -> ObjectId:
    """Return an id that was made long ago, as those of accounts are that were deleted long ago."""
    return ObjectId(int(NOW - 100 * DAY).to_bytes(4, "big") + secrets.token_bytes(8))


GONE, RECENT, HELD, THERE = (old_id() for _ in range(4))
PERSONAL = ("alice", "alice@example.org", "+49 170 1", "10.1.2.3", "Liddell", "browser of hers")


def people() -> list[dict[str, Any]]:
    """Return somebody who is long gone, somebody who has just left, somebody who is held, somebody who is there."""

    def person(user_id: ObjectId, name: str, deleted: float | None, **more: Any) -> dict[str, Any]:
        mail, password = f"{name}@example.org", "$2b$04$" + "x" * 53
        at = None if deleted is None else int((NOW - deleted * DAY) * 1000)
        return {
            "_id": user_id,
            "username": name,
            "email": mail,
            "password": password,
            "subjects": ["user@example.org"],
            "status": "active",
            "deleted_at": at,
            **more,
        }

    return [
        person(GONE, "alice", 31, phone="+49 170 1", tags=["kept"]),
        person(RECENT, "rob", 29),
        person(HELD, "helen", 90, legal_hold=True),
        person(THERE, "tom", None),
    ]


def connected(client_id: str, username: str, principal: str, peer: str) -> BrokerEvent:
    return BrokerEvent(
        f"{client_id} connected",
        EventKind.CONNECTED,
        1,
        client_id,
        username,
        principal,
        connected_at=1,
        peer=peer,
    )


@dataclass
class House:
    """A production store with people and what they have left."""

    settings: Settings
    store: ProductionStore
    lease: Lease
    own: str
    runs: int = 0
    said: list[Any] = field(default_factory=list)

    def collection(self, name: str) -> Any:
        db, _, collection = name.partition(".")
        driver = self.store._mongo.driver
        return driver[f"{self.own}-{db}"][collection] if collection else driver[self.own][name]

    async def fill(self) -> None:
        await self.collection("identity.users").insert_many(people())
        await self.store.audits.append(
            [
                audit(username="alice", client_id="s1:abc", peer_host="10.1.2.3", topic=f"home/alice/{GONE}/s1:abc"),
                audit(username=str(GONE), client_id="s1:abc", peer_host="10.1.2.3"),
                audit(username="alice@example.org"),
                *(
                    audit(username=name, client_id="c", topic="home/alice")
                    for name in ("rob", "helen", "tom", "alicex")
                ),
            ]
        )
        await self.store.presence.take(
            [
                connected("c1", "alice", str(GONE), "10.1.2.3:1883"),
                connected("c2", str(GONE), str(GONE), "10.1.2.3:1884"),
                connected("c3", "tom", str(THERE), "10.9.9.9:1883"),
            ]
        )
        for name, ip in ((GONE, "10.1.2.3"), (THERE, "10.9.9.9"), (HELD, "10.9.9.8")):
            await self.collection("logger.audits").insert_many(
                [
                    {"owner": name, "created_by": THERE, "shares": [THERE, GONE], "ip": ip, "n": 1},
                    {"owner": THERE, "created_by": name, "ip": ip, "n": 2},
                ]
            )
            await self.collection("special.stats").insert_one({"owner": name, "key": "K", "hours": [1] * 24})
            await self.collection("identity.profiles").insert_one(
                {"owner": name, "last_name": "Liddell", "birth_date": 7, "state": "x"}
            )
        await self.collection("identity.sessions").insert_one(
            {"owner": GONE, "agent": "browser of hers", "expiration": 1}
        )
        await self.collection("logger.audits").insert_one({"owner": GONE, "ip": "10.1.2.3", "case": 7})

    async def run(self, *, dry: bool = False, **parameters: Any) -> Progress:
        self.runs += 1
        return await self.live(Run(f"run{self.runs}", "anonymizer", Trigger.PERSON, 0, 0, parameters, dry=dry))

    async def live(self, run: Run, lease: Lease | None = None) -> Progress:
        progress = Progress()
        with structlog.testing.capture_logs() as logs:
            async for progress in Anonymizer().batches(self.work(run, lease)):
                self.said.append(repr(progress))
        self.said.append(repr(logs))
        return progress

    def work(self, run: Run, lease: Lease | None = None) -> Work:
        term = Term(lease or self.lease, 3600, time.monotonic(), time.monotonic)
        return Work(run, term, self.settings, self.store, now=lambda: NOW)

    async def everything(self) -> str:
        """Return all that stands in the databases, but for what the test does not mean."""
        found = []
        for name in (
            "mqtt_audits",
            "mqtt_presence",
            "logger.audits",
            "special.stats",
            *(f"identity.{one}" for one in ENTITIES),
        ):
            found += [(name, one) for one in await self.collection(name).find({}).sort("_id", 1).to_list()]
        return json_util.dumps(found)

    async def one(self, name: str, query: Mapping[str, Any]) -> dict[str, Any]:
        (found,) = await self.collection(name).find(query).to_list()
        return dict(found)


ENTITIES = ("users", "sessions", "profiles")


@pytest.fixture
async def house() -> AsyncIterator[House]:
    urls = mongo.shared_url(), redis.shared_server(redis.debian_redis()).url
    values = settings_of(*urls)
    own = str(values["mongo_database"])
    users = f"{own}-identity.users"
    ours = accounts_in_force({})["users"]
    traces = {
        name: one.model_copy(update={"collection": f"{own}-{one.collection}", "hold": {"case": 7}})
        for name, one in TRACES.items()
        if name not in {"decisions", "presence", "stats"}
    }
    settings = Settings.model_validate(
        {
            **values,
            "hooks_deadline": 20.0,
            "mongo_timeout": 10.0,
            "redis_timeout": 5.0,
            "anonymizer_key": KEY,
            "mongo_accounts": [AccountSource.model_validate({"like": "users", "collection": users})],
            "anonymizer_accounts": {
                "users": ours.model_copy(update={"collection": users, "hold": {"legal_hold": True}})
            },
            "anonymizer_traces": traces,
        }
    )
    async with opened_clients(settings) as (client, _):
        await indexes.ensure(client, _indexes(settings))
    async with ProductionStore.open(settings) as store:
        lease = await store.leases.acquire("job:anonymizer", "me", 3600)
        assert isinstance(lease, Lease)
        found = House(settings, store, lease, own)
        await found.fill()
        yield found


COUNTS = {
    "users replaced": 1,
    "decisions replaced": 3,
    "presence replaced": 2,
    "audits replaced": 2,
    "stats replaced": 1,
    "profiles replaced": 1,
    "sessions replaced": 1,
}


async def test_who_is_gone(house: House) -> None:
    """Nothing personal of whoever was deleted long ago is left, the rest is; the report counts, and says nothing about whom."""
    progress = await house.run()
    assert progress.counts == COUNTS
    assert (progress.done, progress.total) == (1, 1)
    user = await house.one("identity.users", {"_id": GONE})
    assert {name: user[name] for name in ("username", "email", "phone")} == {
        "username": P("alice"),
        "email": P("alice@example.org"),
        "phone": P("+49 170 1"),
    }
    assert user.keys() & {"password", "subjects"} == set()
    assert (user["tags"], user["status"]) == (["kept"], "active")
    assert user["deleted_at"] == people()[0]["deleted_at"]
    assert MARK in user
    profile = await house.one("identity.profiles", {"owner": GONE})
    assert (profile["last_name"], profile["state"], "birth_date" in profile) == (P("Liddell"), "x", False)
    for name in ("identity.profiles", "special.stats", "logger.audits"):
        assert await house.collection(name).count_documents({"owner": THERE}) > 0
    left = await house.everything()
    # What is held stays: the record of a case, and what other people's records say.
    for one in PERSONAL[1:3] + PERSONAL[5:]:
        assert one not in left, one
    assert left.count("10.1.2.3") == 1
    told = "".join(house.said)
    for one in (*PERSONAL, str(GONE)):
        assert one not in told, one


async def test_what_belonged_together_still_does(house: House) -> None:
    """An id, a name and an address are one and the same pseudonym wherever they stand, in the type that they had."""
    await house.run()
    first, second, third, *others = (await house.store.audits.latest(100))[::-1]
    assert (first.username, second.username, third.username) == (P("alice"), P(str(GONE)), P("alice@example.org"))
    assert first.client_id == second.client_id == P("s1:abc")
    assert first.peer_host == second.peer_host == P("10.1.2.3")
    assert first.topic == f"home/{P('alice')}/{P(str(GONE))}/{P('s1:abc')}"
    assert [(one.username, one.client_id) for one in others] == [
        (name, "c") for name in ("rob", "helen", "tom", "alicex")
    ]
    pseudonym = ObjectId(P(str(GONE)))
    stat = await house.one("special.stats", {"owner": pseudonym})
    assert stat["hours"] == [1] * 24
    record = await house.one("logger.audits", {"owner": pseudonym})
    # Who else stands in the record is who they were.
    assert (record["created_by"], record["shares"], record["ip"]) == (THERE, [THERE, pseudonym], P("10.1.2.3"))
    record = await house.one("logger.audits", {"created_by": pseudonym})
    assert record["owner"] == THERE


async def test_dry(house: House) -> None:
    """A dry run reports the same and changes nothing; it needs no key."""
    before = await house.everything()
    assert (await house.run(dry=True)).counts == COUNTS
    house.settings = house.settings.model_copy(update={"anonymizer_key": Settings().anonymizer_key})
    assert (await house.run(dry=True)).counts == COUNTS
    assert await house.everything() == before


async def test_again(house: House) -> None:
    """Another run finds nothing to do; asked to, it looks once more for what came up since, and changes nothing else."""
    await house.run()
    after = await house.everything()
    assert await house.run() == Progress(0, 0, {}, await position(house))
    again = await house.run(again=True)
    assert (again.counts, again.done) == ({}, 1)
    assert await house.everything() == after
    await house.store.audits.append([audit(username=str(GONE), client_id="late")])
    assert (await house.run()).counts == {}
    assert (await house.run(again="true")).counts == {"decisions replaced": 1}
    assert is_pseudonym((await house.store.audits.latest(1))[0].client_id)


async def position(house: House) -> str:
    return str(int((NOW - house.settings.anonymizer_days * DAY) * 1000))


async def test_no_login_comes_of_it(house: House) -> None:
    """Neither by the old names nor by the new ones, and without any secret."""
    await house.run()
    for name in ("alice", P("alice"), str(GONE), P(str(GONE))):
        account = await house.store.accounts.get(name)
        assert account is None or (account.disabled and not account.password_hash and not account.subjects), name
    assert (account := await house.store.accounts.get(P("alice"))) is not None
    assert account.disabled
    assert (living := await house.store.accounts.get("tom")) is not None
    assert not living.disabled


async def test_names_that_others_have_got(house: House) -> None:
    """What belongs to a name that a living account has is left alone, wherever that account is."""
    await house.collection("identity.users").insert_one({"username": "alice", "email": "new@example.org"})
    await house.store.accounts.add([Account("alice@example.org", Kind.DEVICE, "x", "hash")])
    await house.run()
    first, second, third, *_ = (await house.store.audits.latest(100))[::-1]
    assert (first.username, third.username) == ("alice", "alice@example.org")
    assert second.username == P(str(GONE))
    assert (await house.one("identity.users", {"_id": GONE}))["username"] == P("alice")


async def test_what_somebody_changes_meanwhile(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not overwritten, the account stays to be done, and the next run does both."""
    replace = house.store.documents.replace
    once: list[Any] = []

    async def late(collection: str, *more: Any) -> Any:
        if collection.endswith("logger.audits") and not once:
            once.append(await house.collection("logger.audits").update_one({"owner": GONE}, {"$set": {"n": 100}}))
        return await replace(collection, *more)

    monkeypatch.setattr(house.store.documents, "replace", late)
    progress = await house.run()
    assert progress.counts["audits changed meanwhile"] == 1
    assert progress.counts["users left for the next run"] == 1
    assert (progress.done, progress.total) == (0, 1)
    assert (await house.one("logger.audits", {"n": 100}))["ip"] == "10.1.2.3"
    assert (await house.one("identity.users", {"_id": GONE}))["username"] == "alice"
    assert (await house.run()).counts == {"audits replaced": 1, "users replaced": 1}
    assert (await house.one("logger.audits", {"n": 100}))["ip"] == P("10.1.2.3")


async def test_fenced(house: House) -> None:
    """Whoever was paused past the lease writes nothing."""
    await house.store.leases.release(house.lease)
    new = await house.store.leases.acquire("job:anonymizer", "another", 3600)
    assert isinstance(new, Lease)
    assert (
        await house.live(Run("dry", "anonymizer", Trigger.PERSON, 0, 0, {}, dry=True), house.lease)
    ).counts == COUNTS
    # The newer one has to have written for the older one to be known as such.
    await house.store.documents.replace("mqtt_audits", [], new)
    before = await house.everything()
    with pytest.raises(Fenced):
        await house.live(Run("late", "anonymizer", Trigger.PERSON, 0, 0))
    assert await house.everything() == before


async def test_many(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page and batch by batch, with somebody's wish where it is much at once; wherever it ends, the next life goes on."""
    users, audits = house.collection("identity.users"), house.collection("logger.audits")
    at = int((NOW - 40 * DAY) * 1000)
    ids = [old_id() for _ in range(150)]
    await users.insert_many([{"_id": one, "username": f"u{n}", "deleted_at": at} for n, one in enumerate(ids)])
    await audits.insert_many([{"owner": one, "ip": "10.7.7.7"} for one in ids for _ in range(2)])
    with pytest.raises(Invalid, match="yes-really=true"):
        await house.run()
    assert await users.count_documents({MARK: {"$ne": None}}) == 0
    monkeypatch.setattr("maintenance.anonymizer._PAGE", 13)
    run = Run("r", "anonymizer", Trigger.PERSON, 0, 0, {"yes-really": True})
    noted = Progress()
    async for noted in Anonymizer().batches(house.work(run)):
        if noted.done >= 80:
            break
    assert await users.count_documents({MARK: {"$ne": None}}) == noted.done == 80
    progress = await house.live(Run("r", "anonymizer", Trigger.PERSON, 0, 0, {"yes-really": True}, progress=noted))
    assert (progress.done, progress.total) == (151, 151)
    assert (progress.counts["users replaced"], progress.counts["audits replaced"]) == (151, 302)
    assert await users.count_documents({MARK: {"$ne": None}}) == 151
    assert await audits.count_documents({"ip": "10.7.7.7"}) == 0


async def test_nothing_to_do(house: House, tmp_path: Path) -> None:
    """Without a key nothing is done but dry; with the embedded store there is nobody to be found: either is said."""
    house.settings = house.settings.model_copy(update={"anonymizer_key": Settings().anonymizer_key})
    before = await house.everything()
    with pytest.raises(Invalid, match="anonymizer_key"):
        await house.run()
    with pytest.raises(Invalid, match="users"):
        await house.run(accounts="nobodys", dry=True)
    with pytest.raises(Invalid, match="again"):
        await house.run(again="perhaps", dry=True)
    assert await house.everything() == before
    async with EmbeddedStore.open(tmp_path) as store:
        work = Work(
            Run("r", "anonymizer", Trigger.PERSON, 0, 0),
            house.work(Run("r", "", Trigger.PERSON, 0, 0)).term,
            Settings(),
            store,
        )
        with pytest.raises(Invalid, match="MongoDB"):
            await anext(aiter(Anonymizer().batches(work)))


async def test_presence(house: House) -> None:
    """Who was connected from where is not told any more, but that the client was; its end is understood when it comes."""
    await house.run()
    gone = P(str(GONE))
    found = {one.client_id: one for one in await house.store.presence.list()}
    assert {name: (one.username, one.principal, one.peer) for name, one in found.items()} == {
        "c1": (P("alice"), gone, P("10.1.2.3:1883")),
        "c2": (gone, gone, P("10.1.2.3:1884")),
        "c3": ("tom", str(THERE), "10.9.9.9:1883"),
    }
    assert [one.client_id for one in await house.store.presence.list(principal=gone)] == ["c1", "c2"]
    end = replace(connected("c1", "alice", str(GONE), "10.1.2.3:1883"), id="end", kind=EventKind.DISCONNECTED)
    await house.store.presence.take([replace(end, at=2, disconnected_at=2, reason="kicked")])
    (one,) = await house.store.presence.list(client_id="c1")
    assert (one.online, one.reason, one.username, one.peer) == (False, "kicked", P("alice"), P("10.1.2.3:1883"))


async def test_indexes(house: House) -> None:
    """Every field by which something is looked for has an index, once there is a key; without one nothing is made for it."""
    wanted = {(one.collection, one.keys[0][0]) for one in _indexes(house.settings) if "deleted accounts" in one.purpose}
    assert wanted == {
        *((TRACES[name].collection.rpartition(".")[2], by) for name in TRACES for by in TRACES[name].by),
        *(("users", name) for name in ("username", "email", "phone")),
    }
    await indexes.ensure(house.store._mongo, _indexes(house.settings))
    assert await indexes.missing(house.store._mongo, _indexes(house.settings)) == []
    (found,) = [
        one
        for one in await (await house.collection("mqtt_audits").list_indexes()).to_list()
        if "username" in one["key"]
    ]
    assert list(found["key"].items()) == [("username", 1), ("_id", 1)]
    off = house.settings.model_copy(update={"anonymizer_key": Settings().anonymizer_key})
    assert not [one for one in _indexes(off) if "deleted accounts" in one.purpose]


def test_tables_in_force() -> None:
    """A table replaces the one of its name, or leaves it out; statistics are where they are kept."""
    given = Settings.model_validate(
        {
            "anonymizer_accounts": {"users": {"collection": "-"}, "crm": {"collection": "crm.people", "names": "mail"}},
            "anonymizer_traces": {"audits": {"collection": "-"}, "calls": {"collection": "crm.calls", "by": "who"}},
        }
    )
    assert list(accounts_in_force(given.anonymizer_accounts)) == ["crm"]
    traces = traces_in_force(given.anonymizer_traces, "mine.stats")
    assert list(traces) == ["calls", "decisions", "presence", "profiles", "sessions", "stats"]
    assert traces["stats"].collection == "mine.stats"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"anonymizer_key": "short"}, "32 characters"),
        ({"anonymizer_accounts": {"x": {"collection": "a.b", "replace": "_id"}}}, "_id"),
        ({"anonymizer_accounts": {"x": {"collection": "a.b", "remove": "deleted_at"}}}, "deleted"),
        ({"anonymizer_accounts": {"x": {"collection": "a.b", "remove": "m", "replace": "m"}}}, "either"),
        ({"anonymizer_accounts": {"x": {"collection": "identity.users", "replace": "password"}}}, "password"),
        ({"anonymizer_accounts": {"x": {"collection": "identity.users", "remove": "status"}}}, "status"),
        ({"anonymizer_traces": {"x": {"collection": "auth.apts", "by": "uid", "names": "uid"}}}, "uid"),
        ({"anonymizer_traces": {"x": {"collection": "auth.apts", "by": "uid", "replace": "token"}}}, "token"),
        ({"anonymizer_traces": {"x": {"collection": "a.b"}}}, "by"),
        ({"anonymizer_traces": {"x": {"collection": "a.b", "by": "_id"}}}, "_id"),
        ({"anonymizer_traces": {"x": {"collection": "a.b", "by": "o", "names": "o", "replace": "o"}}}, "names"),
        ({"anonymizer_traces": {"x": {"collection": "mqtt_audits", "by": "username", "remove": "topic"}}}, "remove"),
        ({"anonymizer_traces": {"x": {"collection": "mqtt_presence", "by": "username", "remove": "peer"}}}, "remove"),
        ({"anonymizer_traces": {"x": {"collection": "mqtt_runs", "by": "holder"}}}, "rests on"),
        ({"anonymizer_traces": {"X y": {"collection": "a.b", "by": "o"}}}, "lower-case"),
    ],
)
def test_settings_that_are_none(values: dict[str, Any], message: str) -> None:
    """They are refused at the start, above all what could let somebody in again."""
    with pytest.raises(ValueError, match=message):
        Settings.model_validate(values)
