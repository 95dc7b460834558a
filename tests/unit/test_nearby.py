"""Accounts that are read from the mirror: when it is asked, when it is not believed, and that the answer is MongoDB's."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from bson import ObjectId

from companion.core.errors import Transient
from companion.core.model import Account, Lookup, Notice, Scope
from companion.core.ports import Copy
from companion.stores.mongo import following
from companion.stores.mongo.accounts import MongoAccounts
from companion.stores.mongo.gathering import GatheredAccounts
from companion.stores.nearby import HeardNotices, Nearby
from tests.support.mirroring import Mirrored, mirrored
from tests.support.mongo import shared_url


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mirrored]:
    monkeypatch.setattr(following, "_BEAT_SECONDS", 0.1)
    async with mirrored(shared_url()) as found:
        yield found


class Reader:
    """Somebody who reads accounts, and whose clock can be moved."""

    def __init__(self, house: Mirrored) -> None:
        self.moved = 0.0
        self.nearby = Nearby(house.mirror, house.hots, lambda: time.monotonic() + self.moved)
        self.looked: Counter[Lookup] = Counter()
        self.nearby.told = lambda lookup: self.looked.update([lookup])
        own = MongoAccounts(house.client)
        self.near = GatheredAccounts(own, house.client, house.sources, self.nearby)
        self.far = GatheredAccounts(own, house.client, house.sources)

    def listen(self) -> None:
        """Have heard everything there was to hear, for long enough."""
        self.nearby.heard([])
        self.moved += 10

    async def both(self, name: str) -> tuple[Account | None, Lookup]:
        """Return the account, which has to be the one that MongoDB alone gives, and what the look into the mirror came to."""
        before = self.looked.copy()
        account = await self.near.get(name)
        assert account == await self.far.get(name)
        (lookup,) = self.looked - before
        return account, lookup


@pytest.fixture
def reader(house: Mirrored) -> Reader:
    return Reader(house)


async def test_the_answer_is_that_of_mongodb(house: Mirrored, reader: Reader) -> None:
    """For everybody; who may not be used, has a name with others or is not there is asked for there."""
    user, other, victim = ObjectId("64b7f0c2a3d4e5f6012345aa"), ObjectId(), ObjectId()
    await house.accounts.insert_one({"username": "ours", "kind": "device", "principal": "p", "password_hash": "h"})
    await house.users.insert_many(
        [
            {"_id": user, "username": "alice", "password": "hash", "subjects": ["a@b"]},
            {"_id": other, "username": "blocked", "password": "hash", "status": "BLOCKED"},
            {"_id": victim, "username": "victim", "password": "hash"},
            {"username": str(victim), "password": "hash"},
            {"username": ["list", "two"], "password": "hash"},
            {"username": "ours", "password": "hash"},
            {"username": "twice", "password": "hash"},
            {"username": "twice", "password": "hash", "deleted_at": 1},
            {"username": "shop", "password": "hash"},
        ]
    )
    await house.clients.insert_many(
        [{"client_id": "shop", "client_secret": "s"}, {"_id": "text", "client_id": "c", "client_secret": "s"}]
    )
    reader.listen()
    async with house.following():
        found = {
            name: await reader.both(name)
            for name in ("ours", "alice", str(user), str(victim), "list", "two", "text", "c")
        }
        assert {lookup for _, lookup in found.values()} == {Lookup.HIT}
        assert all(account is not None and not account.disabled for account, _ in found.values())
        for name in ("twice", "shop", "blocked", str(other), str(user).upper(), "nobody", "a\0b"):
            account, lookup = await reader.both(name)
            assert lookup is Lookup.MISS
            assert account is None or account.disabled or name == str(user).upper()


async def test_after_a_word(house: Mirrored, reader: Reader) -> None:
    """For as long as the mirror may be older than the word, MongoDB is asked; so it is while no word can be heard."""
    await house.users.insert_many([{"username": name, "password": "hash"} for name in ("alice", "bob")])
    async with house.following():
        assert (await reader.both("alice"))[1] is Lookup.RECENT
        reader.nearby.heard([])
        reader.moved += following.SERVED_SECONDS
        assert (await reader.both("alice"))[1] is Lookup.RECENT
        reader.moved += following.SERVED_SECONDS
        assert (await reader.both("alice"))[1] is Lookup.HIT
        reader.nearby.heard([Notice(Scope.ACCOUNT, "alice"), Notice(Scope.RULES)])
        reader.moved += following.SERVED_SECONDS / 2
        reader.nearby.heard([Notice(Scope.ACCOUNT, "bob")])
        reader.moved += following.SERVED_SECONDS / 2
        assert [(await reader.both(name))[1] for name in ("alice", "bob")] == [Lookup.RECENT] * 2
        reader.moved += following.SERVED_SECONDS * 0.3
        assert [(await reader.both(name))[1] for name in ("alice", "bob")] == [Lookup.HIT, Lookup.RECENT]
        reader.nearby.heard([Notice(Scope.EVERYTHING)])
        assert (await reader.both("alice"))[1] is Lookup.RECENT
        reader.moved += following.SERVED_SECONDS * 2
        reader.nearby.heard([Notice(Scope.ACCOUNT, f"{n}") for n in range(10_001)])
        assert (await reader.both("alice"))[1] is Lookup.RECENT
        reader.moved += following.SERVED_SECONDS * 2
        assert (await reader.both("alice"))[1] is Lookup.HIT
        reader.nearby.deaf()
        reader.moved += following.SERVED_SECONDS * 2
        assert (await reader.both("alice"))[1] is Lookup.RECENT


async def test_words_are_heard_first(reader: Reader) -> None:
    """Whoever lets go of an account on a word finds that the mirror is not asked for it any more, also after a word of our own."""

    class Words:
        async def announce(self, notice: Notice) -> None:
            announced.append(notice)

        async def follow(self) -> AsyncIterator[Sequence[Notice]]:
            yield ()
            yield [Notice(Scope.ACCOUNT, "alice")]

    announced: list[Notice] = []
    notices = HeardNotices(Words(), reader.nearby)
    async for told in notices.follow():
        assert (await reader.both("bob"))[1] is (Lookup.SILENT if told else Lookup.RECENT)
        assert (await reader.both("alice"))[1] is Lookup.RECENT
        reader.moved += 10 if not told else 0
    assert (await reader.both("bob"))[1] is Lookup.RECENT
    reader.listen()
    await notices.announce(Notice(Scope.ACCOUNT, "bob"))
    assert announced == [Notice(Scope.ACCOUNT, "bob")]
    assert (await reader.both("bob"))[1] is Lookup.RECENT


async def test_what_cannot_be_asked(house: Mirrored, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror that nobody keeps, and a Redis that is away: MongoDB answers."""
    await house.users.insert_one({"username": "alice", "password": "hash"})
    reader.listen()
    assert (await reader.both("alice"))[1] is Lookup.SILENT

    async def away(*_: object) -> Sequence[Copy]:
        raise Transient("redis: away")

    monkeypatch.setattr(house.mirror, "find", away)
    assert (await reader.both("alice"))[1] is Lookup.AWAY
