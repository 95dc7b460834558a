"""The port `Store`: what holds for all of it."""

from __future__ import annotations

import asyncio

import pytest

from companion.core.errors import CompanionError
from companion.core.model import Notice, Scope
from companion.core.ports import Store
from tests.support.adapters import Open
from tests.support.entities import account, audit, change, changes, session


async def test_no_trouble(store: Store, other: Store) -> None:
    """A store that serves has no trouble to tell, and says which of what is behind it the hooks need."""
    for one in (store, other):
        troubles = await one.troubles()
        assert set(troubles.values()) == {None}
        assert set(one.hooks_need) <= set(troubles)
        assert one.hooks_need


async def test_a_closed_store_says_so(open_store: Open) -> None:
    """Whoever still asks a closed store, for whatever, gets an error of ours."""
    async with open_store() as store:
        pass
    troubles = await store.troubles()
    assert all(troubles.values())
    for call in (
        store.accounts.get("alice"),
        store.accounts.add([account("alice")]),
        store.rules.list(),
        store.sessions.put(session()),
        store.notices.announce(Notice(Scope.RULES)),
        store.leases.acquire("work", "a", 1),
        store.inbox.append([change("e1")]),
        store.checkpoints.save("reader", "1", 1),
        store.audits.append([audit()]),
    ):
        with pytest.raises(CompanionError):
            await call


async def test_closing_finishes_what_was_asked(open_store: Open) -> None:
    """What was being written when the store closed is either there afterwards, or its caller was told."""
    async with open_store() as store:
        writing = [asyncio.ensure_future(store.inbox.append([one])) for one in changes("e", 100)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    kept = {f"e-{number}" for number, outcome in enumerate(outcomes) if not isinstance(outcome, CompanionError)}
    assert all(isinstance(one, CompanionError) or not isinstance(one, BaseException) for one in outcomes)
    async with open_store() as store:
        assert {item.change.event_id for item in await store.inbox.read(0, 1000)} == kept


async def test_an_abandoned_write_harms_no_other(store: Store) -> None:
    """Callers who are cancelled while they wait leave the writes of the others alone."""
    writing = [asyncio.ensure_future(store.inbox.append([one])) for one in changes("e", 100)]
    await asyncio.sleep(0)
    for task in writing[::2]:
        task.cancel()
    await asyncio.gather(*writing, return_exceptions=True)
    found = {item.change.event_id for item in await store.inbox.read(0, 1000)}
    assert found >= {f"e-{number}" for number in range(1, 100, 2)}


async def test_everything_at_once(store: Store, other: Store) -> None:
    """Reads and writes of all kinds, through two stores at the same time, all succeed."""
    calls = []
    for number in range(30):
        one, two = (store, other) if number % 2 else (other, store)
        calls += [
            one.accounts.add([account(f"a{number}")]),
            two.accounts.get(f"a{number}"),
            one.inbox.append(changes(f"e{number}", 5)),
            two.inbox.read(0, 100),
            one.sessions.put(session("u", f"s:{number}")),
            two.sessions.get("u", f"s:{number}"),
            one.audits.append([audit()]),
            two.audits.latest(5),
            one.checkpoints.save("reader", str(number), 1),
            two.leases.acquire(f"work {number}", "a", 1),
            two.troubles(),
        ]
    await asyncio.gather(*calls)
    assert len(await store.accounts.list()) == 30
    assert await other.inbox.backlog(0) == 150
    assert await other.checkpoints.load("reader") in {str(number) for number in range(30)}
