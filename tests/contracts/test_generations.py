"""The port `Generations`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from companion.core.errors import Invalid
from companion.core.ports import Store
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from tests.support.adapters import Open
from tests.support.entities import account, audit, change, session

RULE = Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "t/#")
Change = Callable[[Store], Awaitable[object]]


async def _remove_a_rule(store: Store) -> None:
    (first, *_) = await store.rules.list()
    assert await store.rules.remove(first.id)


MOVING: dict[str, Change] = {
    "an account": lambda store: store.accounts.add([account("bob")]),
    "accounts": lambda store: store.accounts.add([account("bob"), account("carol")]),
    "a password": lambda store: store.accounts.set_password("alice", "new"),
    "disabled": lambda store: store.accounts.set_disabled("alice", disabled=True),
    "a rule": lambda store: store.rules.add(RULE),
    "a rule less": _remove_a_rule,
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
    await store.sessions.remove("u", "s:1")
    await store.sessions.prune(2**53, 10)


STILL: dict[str, Change] = {
    "the inbox": _inbox,
    "audits": _audits,
    "sessions": _sessions,
    "a checkpoint": lambda store: store.checkpoints.save("reader", 7),
    "reading": lambda store: store.accounts.get("alice"),
}


@pytest.fixture
async def filled(store: Store) -> Store:
    """Put an account and a rule into the store."""
    await store.accounts.add([account("alice")])
    await store.rules.add(RULE)
    return store


@pytest.mark.parametrize("name", MOVING)
async def test_grows_when_another_store_changes_what_decisions_rest_on(filled: Store, other: Store, name: str) -> None:
    """A change of an account or a rule by another store moves the number, for both of them alike."""
    before = await filled.generations.current()
    assert await other.generations.current() == before
    await MOVING[name](other)
    assert await filled.generations.current() > before
    assert await filled.generations.current() == await other.generations.current()


@pytest.mark.parametrize("name", MOVING)
async def test_grows_when_the_store_itself_changes_it(filled: Store, name: str) -> None:
    """The store's own change moves the number as well."""
    before = await filled.generations.current()
    await MOVING[name](filled)
    assert await filled.generations.current() > before


@pytest.mark.parametrize("name", STILL)
async def test_rests_otherwise(filled: Store, other: Store, name: str) -> None:
    """Traffic does not move the number: every move costs all caches."""
    before = await filled.generations.current()
    await STILL[name](other)
    assert await filled.generations.current() == before


async def test_a_refused_change_moves_nothing(filled: Store) -> None:
    """What was undone did not happen."""
    before = await filled.generations.current()
    with pytest.raises(Invalid):
        await filled.accounts.add([account("bob"), account("alice")])
    assert await filled.generations.current() == before


async def test_goes_on_after_reopening(open_store: Open) -> None:
    """A number that was seen once never comes back for other data."""
    seen = set()
    for number in range(4):
        async with open_store() as store:
            await store.accounts.add([account(str(number))])
            seen.add(await store.generations.current())
    assert len(seen) == 4
    async with open_store() as store:
        assert await store.generations.current() == max(seen)
