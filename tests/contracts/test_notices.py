"""The port `Notices`, and that the other ports let it tell what they changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from companion.core.model import Notice, Scope
from companion.core.ports import Store
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from tests.support.adapters import Open
from tests.support.entities import account, audit, change, session

PORTS = {"notices", "accounts", "rules", "sessions", "inbox", "checkpoints", "audits"}

PATIENCE = 10.0
RULE = Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "t/#")
MARK = Notice(Scope.ACCOUNT, "the mark")
Change = Callable[[Store], Awaitable[object]]


class Follower:
    """Collects what is told."""

    def __init__(self) -> None:
        self.told: list[Notice] = []
        self.listens = asyncio.Event()
        self.news = asyncio.Event()

    async def listen(self, store: Store) -> None:
        async with contextlib.aclosing(store.notices.follow()) as words:  # type: ignore[type-var]
            async for notices in words:
                self.told += notices
                self.listens.set()
                self.news.set()

    async def hears(self, notice: Notice) -> None:
        """Return when something was told that covers the notice; what was told up to then is forgotten."""
        async with asyncio.timeout(PATIENCE):
            while not any(told == notice or told.scope is Scope.EVERYTHING for told in self.told):
                await self.news.wait()
                self.news.clear()
        self.told.clear()


@contextlib.asynccontextmanager
async def following(store: Store) -> AsyncIterator[Follower]:
    """Follow while the block runs; it begins once the follower listens, and what it was told at first is forgotten."""
    follower = Follower()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follower.listen(store))
        async with asyncio.timeout(PATIENCE):
            await follower.listens.wait()
        await asyncio.sleep(0.1)
        follower.told.clear()
        yield follower
        task.cancel()


async def _remove_a_rule(store: Store) -> None:
    (first, *_) = await store.rules.list()
    assert await store.rules.remove(first.id)


def _named(name: str) -> Notice:
    return Notice(Scope.ACCOUNT, name)


CHANGES: dict[str, tuple[Change, Notice]] = {
    "an account": (lambda store: store.accounts.add([account("bob")]), _named("bob")),
    "accounts": (lambda store: store.accounts.add([account("bob"), account("carol")]), _named("carol")),
    "a password": (lambda store: store.accounts.set_password("alice", "new"), _named("alice")),
    "disabled": (lambda store: store.accounts.set_disabled("alice", disabled=True), _named("alice")),
    "a rule": (lambda store: store.rules.add(RULE), Notice(Scope.RULES)),
    "a rule less": (_remove_a_rule, Notice(Scope.RULES)),
    "an announcement": (lambda store: store.notices.announce(MARK), MARK),
}


async def _inbox(store: Store) -> None:
    await store.inbox.append([change("e1"), change("e2")])
    first, second = await store.inbox.read(0, 10)
    await store.inbox.acknowledge([(first.position, 1)])
    await store.inbox.bury(second.position, "why")
    await store.inbox.prune(through=second.position, before=2**53, limit=10)


async def _audits(store: Store) -> None:
    await store.audits.append([audit(1), audit(2), audit(3)])
    await store.audits.prune(2, 10)
    await store.audits.trim(1, 10)


async def _sessions(store: Store) -> None:
    await store.sessions.put(session("u", "s:1"))
    await store.sessions.put(session("u", "s:2"))
    await store.sessions.prune(2**53, 10)


TRAFFIC: dict[str, Change] = {
    "the inbox": _inbox,
    "audits": _audits,
    "sessions": _sessions,
    "a checkpoint": lambda store: store.checkpoints.save("reader", "7", 1),
    "reading": lambda store: store.accounts.get("alice"),
}


@pytest.fixture
async def filled(store: Store) -> Store:
    """Put an account and a rule into the store."""
    await store.accounts.add([account("alice")])
    await store.rules.add(RULE)
    return store


@pytest.mark.parametrize("name", CHANGES)
async def test_everybody_hears_of_a_change(filled: Store, other: Store, name: str) -> None:
    """What one store changes is told to followers of another, and to its own."""
    make, notice = CHANGES[name]
    async with following(filled) as own, following(other) as others, following(other) as third:
        await make(filled)
        for follower in (own, others, third):
            await follower.hears(notice)


@pytest.mark.parametrize("name", TRAFFIC)
async def test_traffic_is_not_told(filled: Store, other: Store, name: str) -> None:
    """What happens all the time is no news: every notice costs caches."""
    async with following(filled) as follower:
        await TRAFFIC[name](other)
        await asyncio.sleep(0.2)
        assert follower.told == []
        await other.notices.announce(MARK)
        await follower.hears(MARK)


async def test_changes_one_after_the_other(filled: Store, other: Store) -> None:
    """None of many is missed."""
    async with following(other) as follower:
        for number in range(20):
            await filled.accounts.add([account(f"n{number}")])
            await follower.hears(_named(f"n{number}"))


async def test_reopening(open_store: Open) -> None:
    """A follower that begins later hears of what changes from then on."""
    async with open_store() as store:
        await store.accounts.add([account("alice")])
    async with open_store() as store, open_store() as other, following(other) as follower:
        await store.accounts.set_disabled("alice", disabled=True)
        await follower.hears(_named("alice"))
