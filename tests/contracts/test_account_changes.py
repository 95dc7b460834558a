"""The port `AccountChanges`: what our own calls change."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from companion.core.errors import Fenced
from companion.core.model import AccountSecret
from companion.core.ports import AccountChange, Store
from companion.core.revocations import Cause
from tests.support.adapters import Open
from tests.support.entities import account
from tests.support.eventually import eventually

PORTS = {"account_changes", "accounts"}


async def read(store: Store, count: int) -> Sequence[AccountChange]:
    """Return so many changes, once they are there."""
    found: list[AccountChange] = []

    async def enough() -> bool:
        found.extend(one for one in await store.account_changes.read(100) if one.cause is not None)
        return len(found) >= count

    await eventually(enough, 20, f"{count} changes")
    return found


def told(found: Sequence[AccountChange]) -> list[tuple[str, Cause | None]]:
    return [(one.username, one.cause) for one in found]


async def test_what_is_told(store: Store, other: Store) -> None:
    """Another password, a secret that is gone and a disabled account are told in order, each once; what changes nothing is not."""
    await store.accounts.add([account("alice"), account("bob")])
    await store.account_changes.open(1)
    await other.accounts.set_password("alice", "other")
    found = list(await read(store, 1))
    await other.accounts.set_disabled("bob", disabled=True)
    found += await read(store, 1)
    for one in ("s1", "s2"):
        await other.accounts.add_secret("alice", AccountSecret(one, f"hash of {one}"))
    await other.accounts.remove_secret("alice", "s3")
    await other.accounts.remove_secret("alice", "s1")
    found += await read(store, 1)
    await other.accounts.set_disabled("bob", disabled=False)
    await other.accounts.set_password("nobody", "other")
    await other.accounts.add([account("carol")])
    await other.accounts.set_password("bob", "another")
    found += await read(store, 1)
    assert told(found) == [
        ("alice", Cause.PASSWORD),
        ("bob", Cause.DISABLED),
        ("alice", Cause.SECRET),
        ("bob", Cause.PASSWORD),
    ]
    assert len({one.identity for one in found}) == 4


async def test_the_place_is_kept(open_store: Open) -> None:
    """It begins with what changes after the first opening; what was not noted as looked after is told again, as the same."""
    async with open_store() as store:
        await store.accounts.add([account("alice"), account("bob")])
        await store.accounts.set_password("alice", "before")
        await store.account_changes.open(1)
        await store.accounts.set_password("alice", "other")
        (first,) = await read(store, 1)
        await store.account_changes.close()
    async with open_store() as store:
        await store.account_changes.open(2)
        (again,) = await read(store, 1)
        assert (again.username, again.identity) == (first.username, first.identity)
        await store.account_changes.save(again.position)
        await store.accounts.set_disabled("bob", disabled=True)
        await store.account_changes.close()
        await store.account_changes.close()
    async with open_store() as store:
        await store.account_changes.open(3)
        assert told(await read(store, 1)) == [("bob", Cause.DISABLED)]
        await store.account_changes.close()


async def test_fences(store: Store, other: Store) -> None:
    """Whoever claims the place later shuts out who was there before."""
    await store.accounts.add([account("alice")])
    await store.account_changes.open(1)
    await store.accounts.set_password("alice", "other")
    (one,) = await read(store, 1)
    await other.account_changes.open(2)
    with pytest.raises(Fenced):
        await store.account_changes.save(one.position)
    assert told(await read(other, 1)) == [("alice", Cause.PASSWORD)]
    with pytest.raises(Fenced):
        await store.account_changes.open(1)
    await store.account_changes.close()
    await other.account_changes.close()
