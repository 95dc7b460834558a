"""The port `Sessions`."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from companion.core.errors import CompanionError
from companion.core.ports import Store
from tests.support.adapters import Open
from tests.support.entities import HOSTILE, session

PORTS = {"sessions"}


async def test_nobody_at_first(store: Store) -> None:
    """A session that was never stored is not found, and forgetting it is no error."""
    assert await store.sessions.get("u", "s:1") is None
    await store.sessions.remove("u", "s:1")


async def test_every_field_comes_back(store: Store) -> None:
    """What was put is what is found, also when it has expired."""
    for expires_at in (0, 1, 253_402_300_799):
        wanted = session(
            "u",
            "s:1",
            principal="somebody",
            session="s",
            expires_at=expires_at,
            token="t" * (expires_at % 2),
            acl='[{"topic":"\u00e4/#"}]' * expires_at.bit_length(),
        )
        await store.sessions.put(wanted)
        assert await store.sessions.get("u", "s:1") == wanted


async def test_groups_and_tenant_come_back(store: Store) -> None:
    """Whatever they are called."""
    for wanted in (session(groups=HOSTILE, tenant=HOSTILE[8], subject="a@b", scope="publish"), session(groups=("g",))):
        await store.sessions.put(wanted)
        assert await store.sessions.get("u", "s:1") == wanted


async def test_the_newer_one_takes_the_place(store: Store) -> None:
    """A session of the same user name and client id replaces the earlier one, whatever its end."""
    first = session(expires_at=2000)
    for newer in (first, first, replace(first, expires_at=1000), replace(first, principal="q", session="t")):
        await store.sessions.put(newer)
        assert await store.sessions.get("u", "s:1") == newer


async def test_keys_are_what_they_are(store: Store) -> None:
    """User names and client ids that look alike, or would when joined, have sessions of their own."""
    keys = [(name, "s:1") for name in HOSTILE] + [("u", name) for name in HOSTILE] + [("a", "b:c"), ("a:b", "c")]
    for number, (username, client_id) in enumerate(keys):
        await store.sessions.put(session(username, client_id, expires_at=number))
    for number, (username, client_id) in enumerate(keys):
        assert await store.sessions.get(username, client_id) == session(username, client_id, expires_at=number)


async def test_removing(store: Store) -> None:
    """One session goes, those beside it stay."""
    await store.sessions.put(session("u", "s:1"))
    await store.sessions.put(session("u", "s:2"))
    await store.sessions.remove("u", "s:1")
    await store.sessions.remove("u", "s:1")
    assert await store.sessions.get("u", "s:1") is None
    assert await store.sessions.get("u", "s:2") == session("u", "s:2")


async def test_pruning(store: Store) -> None:
    """Only what expired before the given second goes, as many as asked for, and the number is told."""
    for expires_at in range(95, 105):
        await store.sessions.put(session("u", f"s:{expires_at}", expires_at=expires_at))
    assert [await store.sessions.prune(100, limit, dry=True) for limit in (3, 100)] == [3, 5]
    assert [await store.sessions.prune(100, 3) for _ in range(3)] == [3, 2, 0]
    left = [one for one in range(95, 105) if await store.sessions.get("u", f"s:{one}") is not None]
    assert left == list(range(100, 105))


async def test_one_of_many_is_kept(store: Store, other: Store) -> None:
    """Of many puts at once, through two stores, one session remains, and it is whole."""
    wanted = [session(principal=f"p{number}", session=f"s{number}", expires_at=number) for number in range(20)]
    await asyncio.gather(*((store if one.expires_at % 2 else other).sessions.put(one) for one in wanted))
    assert await store.sessions.get("u", "s:1") in wanted


async def test_what_cannot_be_stored(store: Store) -> None:
    """Text that is no UTF-8, and numbers that are too large, are refused with an error of ours."""
    for call in (
        store.sessions.put(session(session="\ud800")),
        store.sessions.put(session(expires_at=2**200)),
        store.sessions.get("\ud800", "s:1"),
        store.sessions.remove("u", "\ud800"),
    ):
        with pytest.raises(CompanionError):
            await call
    assert await store.sessions.get("u", "s:1") is None


async def test_seen_by_others_and_after_reopening(open_store: Open) -> None:
    """Another store sees a session as soon as it was put, and so does one that is opened later."""
    async with open_store() as store, open_store() as other:
        await store.sessions.put(session("u", "s:1"))
        assert await other.sessions.get("u", "s:1") == session("u", "s:1")
        await other.sessions.put(session("u", "s:2"))
        await other.sessions.remove("u", "s:1")
    async with open_store() as store:
        assert await store.sessions.get("u", "s:1") is None
        assert await store.sessions.get("u", "s:2") == session("u", "s:2")
