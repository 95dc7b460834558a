"""The port `Accounts`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from companion.core.errors import CompanionError, Invalid
from companion.core.model import MAX_SECRETS, Account, AccountSecret, Kind
from companion.core.ports import Store
from tests.support.adapters import Open
from tests.support.entities import HOSTILE, account

PORTS = {"accounts"}


async def everybody(store: Store, limit: int = 1000) -> list[Account]:
    """Return all accounts, page by page."""
    found: list[Account] = []
    while page := await store.accounts.list(after=found[-1].username if found else "", limit=limit):
        assert len(page) <= limit
        found += page
    return found


async def test_nobody_at_first(store: Store) -> None:
    """A new store has no accounts."""
    assert await store.accounts.get("alice") is None
    assert list(await store.accounts.list()) == []


async def test_every_field_comes_back(store: Store) -> None:
    """What was added is what is found, also when it is disabled or long expired."""
    added = [
        Account(f"{number:02}", kind, f"principal of {number}", "$2b$04$hash", disabled=disabled, expires_at=expires_at)
        for number, (kind, disabled, expires_at) in enumerate(
            product(Kind, (True, False), (None, 0, 1_900_000_000, 2**53))
        )
    ]
    await store.accounts.add(added)
    assert list(await store.accounts.list()) == added
    assert [await store.accounts.get(one.username) for one in added] == added


async def test_names_are_what_they_are(store: Store) -> None:
    """Names that look alike, or like something else, are different accounts."""
    await store.accounts.add([account(name, principal=f"of {name}") for name in HOSTILE])
    for name in HOSTILE:
        assert await store.accounts.get(name) == account(name, principal=f"of {name}")
    assert len(await everybody(store)) == len(HOSTILE)


async def test_a_known_name_adds_nobody(store: Store) -> None:
    """A batch with a name that exists is refused as a whole, and the name is told."""
    await store.accounts.add([account("bob", principal="first")])
    with pytest.raises(Invalid, match="username: 'bob'") as refused:
        await store.accounts.add([account("alice"), account("bob"), account("carol")])
    assert refused.value.field == "username"
    assert list(await store.accounts.list()) == [account("bob", principal="first")]


async def test_a_name_twice_in_a_batch_adds_nobody(store: Store) -> None:
    """The batch itself may not name anybody twice."""
    with pytest.raises(Invalid, match="username: 'alice'"):
        await store.accounts.add([account("alice"), account("bob"), account("alice")])
    assert list(await store.accounts.list()) == []


async def test_an_empty_batch(store: Store) -> None:
    """Adding nobody is no error."""
    await store.accounts.add([])
    assert list(await store.accounts.list()) == []


async def test_a_new_password(store: Store) -> None:
    """The hash is replaced, and nothing else."""
    before = account("alice", kind=Kind.USER, disabled=True, expires_at=5)
    await store.accounts.add([before, account("bob")])
    assert await store.accounts.set_password("alice", "another") is True
    assert await store.accounts.get("alice") == replace(before, password_hash="another")
    assert await store.accounts.get("bob") == account("bob")


async def test_a_hash_that_is_still_the_same_is_replaced(store: Store, other: Store) -> None:
    """The hash changes only if it is the one that was seen; of many who replace it at once, one does."""
    before = account("alice", kind=Kind.USER, expires_at=5, secrets=(AccountSecret("s", "h"),))
    await store.accounts.add([before])
    assert await store.accounts.replace_hash("alice", "another", "new") is False
    assert await store.accounts.replace_hash("nobody", "hash", "new") is False
    assert await store.accounts.get("alice") == before
    replacing = [(store if n % 2 else other).accounts.replace_hash("alice", "hash", f"new {n}") for n in range(10)]
    replaced = await asyncio.gather(*replacing)
    assert sum(replaced) == 1
    assert await store.accounts.get("alice") == replace(before, password_hash=f"new {replaced.index(True)}")


async def test_further_secrets(store: Store) -> None:
    """They come and go one by one, each with what was said of it, and nothing else of the account changes."""
    secrets = [
        AccountSecret("a", "hash a"),
        AccountSecret("b", "hash b", not_before=0),
        AccountSecret("ä", "hash c", not_after=253_402_300_799),
        AccountSecret("d", "hash d", 1, 2),
    ]
    await store.accounts.add([account("alice"), account("bob", secrets=tuple(secrets))])
    for number, secret in enumerate(secrets, 1):
        assert await store.accounts.add_secret("alice", secret) is True
        assert await store.accounts.get("alice") == account("alice", secrets=tuple(secrets[:number]))
    assert [one.secrets for one in await store.accounts.list()] == [tuple(secrets)] * 2
    assert await store.accounts.remove_secret("alice", "b") is True
    assert await store.accounts.remove_secret("alice", "b") is False
    assert await store.accounts.get("alice") == account("alice", secrets=(secrets[0], *secrets[2:]))
    assert await store.accounts.get("bob") == account("bob", secrets=tuple(secrets))


async def test_no_more_secrets_than_may_be(store: Store, other: Store) -> None:
    """An id comes once, and of many who add at once, through two stores, as many succeed as there is room."""
    await store.accounts.add([account("alice")])
    assert await store.accounts.add_secret("alice", AccountSecret("s", "h")) is True
    with pytest.raises(Invalid, match="secret: 's'"):
        await store.accounts.add_secret("alice", AccountSecret("s", "h2"))
    adding = [(store if n % 2 else other).accounts.add_secret("alice", AccountSecret(str(n), "h")) for n in range(12)]
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert sum(outcome is True for outcome in outcomes) == MAX_SECRETS - 1
    assert all(outcome is True or isinstance(outcome, Invalid) for outcome in outcomes)
    found = await store.accounts.get("alice")
    assert found is not None
    assert len(found.secrets) == MAX_SECRETS


async def test_nobody_to_give_a_secret_to(store: Store) -> None:
    """Giving or taking a secret where there is no account says so and makes none."""
    assert await store.accounts.add_secret("alice", AccountSecret("s", "h")) is False
    assert await store.accounts.remove_secret("alice", "s") is False
    assert await store.accounts.get("alice") is None


async def test_what_is_kept_for_scram(store: Store) -> None:
    """It is of the same password as the hash: a new password replaces it, or takes it away. A new hash of the same one does not."""
    before = account("alice", scram="SCRAM-SHA-256$...")
    await store.accounts.add([before])
    assert await store.accounts.get("alice") == before
    await store.accounts.replace_hash("alice", "hash", "hash 2")
    assert await store.accounts.get("alice") == replace(before, password_hash="hash 2")
    await store.accounts.set_password("alice", "hash 3", "another")
    assert await store.accounts.get("alice") == replace(before, password_hash="hash 3", scram="another")
    await store.accounts.set_password("alice", "hash 4")
    assert await store.accounts.get("alice") == replace(before, password_hash="hash 4", scram="")


async def test_disabled_and_enabled(store: Store) -> None:
    """An account is disabled and enabled, and repeating it changes nothing."""
    await store.accounts.add([account("alice"), account("bob")])
    for disabled in (True, True, False, False):
        assert await store.accounts.set_disabled("alice", disabled=disabled) is True
        assert await store.accounts.get("alice") == account("alice", disabled=disabled)
    assert await store.accounts.get("bob") == account("bob")


async def test_groups_and_tenant(store: Store) -> None:
    """They come back, whatever they are called; they are replaced together, and nothing else is."""
    belonging = account("alice", groups=HOSTILE, tenant=HOSTILE[8], expires_at=5)
    await store.accounts.add([belonging, account("bob", groups=("g",))])
    assert await store.accounts.get("alice") == belonging
    assert await store.accounts.set_membership("alice", groups=["h"], tenant="t") is True
    assert await store.accounts.get("alice") == replace(belonging, groups=("h",), tenant="t")
    assert await store.accounts.set_membership("alice", groups=[], tenant="") is True
    assert await store.accounts.get("alice") == replace(belonging, groups=(), tenant="")
    assert await store.accounts.get("bob") == account("bob", groups=("g",))


async def test_attributes_superusers_and_certificates(store: Store) -> None:
    """Each is kept, is replaced as a whole where it is given, and stays where it is not."""
    pins = ("cn:ä", "subject:CN=a,O=b")
    before = account("alice", attributes={"tenant": "t1", "ä.b": 'ü "1"'}, superuser=True, certificates=pins)
    await store.accounts.add([before, account("bob")])
    assert await store.accounts.get("alice") == before
    changes: list[tuple[dict[str, Any], Account]] = [
        ({}, before),
        ({"attributes": {"a": "b"}}, replace(before, attributes={"a": "b"})),
        ({"superuser": False}, replace(before, attributes={"a": "b"}, superuser=False)),
        ({"attributes": {}, "superuser": True}, replace(before, attributes={})),
        ({"certificates": ["cn:b"]}, replace(before, attributes={}, certificates=("cn:b",))),
        ({"certificates": []}, replace(before, attributes={}, certificates=())),
    ]
    for given, expected in changes:
        assert await store.accounts.adjust("alice", **given) is True
        assert await store.accounts.get("alice") == expected
    assert await store.accounts.get("bob") == account("bob")
    assert await store.accounts.adjust("nobody", superuser=True) is False
    assert await store.accounts.get("nobody") is None


async def test_nobody_to_change(store: Store) -> None:
    """Changing an account that does not exist says so and makes none."""
    assert await store.accounts.set_password("alice", "hash") is False
    assert await store.accounts.set_disabled("alice", disabled=True) is False
    assert await store.accounts.set_membership("alice", groups=["g"], tenant="t") is False
    assert await store.accounts.get("alice") is None


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_pages(store: Store, limit: int) -> None:
    """Page by page everybody comes once, in the order of the names' code points."""
    await store.accounts.add([account(name) for name in HOSTILE])
    assert [one.username for one in await everybody(store, limit)] == sorted(HOSTILE)


async def test_pages_begin_behind_any_name(store: Store) -> None:
    """`after` need not be a name that exists."""
    await store.accounts.add([account("a"), account("c")])
    assert list(await store.accounts.list(after="b")) == [account("c")]
    assert list(await store.accounts.list(after="c")) == []


async def test_one_of_many_wins_a_name(store: Store, other: Store) -> None:
    """Of twenty who add the same name at once, through two stores, one succeeds and the others are told."""
    adding = [
        (store if number % 2 else other).accounts.add([account("alice", principal=str(number))]) for number in range(20)
    ]
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert all(outcome is None or isinstance(outcome, Invalid) for outcome in outcomes)
    found = await store.accounts.get("alice")
    assert found is not None
    assert outcomes[int(found.principal)] is None


async def test_a_refusal_harms_nobody_beside_it(store: Store) -> None:
    """Batches that are refused among many at once take none of the good ones with them."""
    await store.accounts.add([account("taken")])
    adding = [
        store.accounts.add([account(f"a{number}"), account("taken" if number % 3 == 0 else f"b{number}")])
        for number in range(60)
    ]
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert [isinstance(outcome, Invalid) for outcome in outcomes] == [number % 3 == 0 for number in range(60)]
    expected = {"taken"} | {f"{letter}{number}" for number in range(60) if number % 3 for letter in "ab"}
    assert {one.username for one in await everybody(store)} == expected


async def test_what_cannot_be_stored(store: Store) -> None:
    """Text that is no UTF-8 is refused with an error of ours, on every way."""
    bad = "\ud800"
    for call in (
        store.accounts.get(bad),
        store.accounts.add([account("alice"), account(bad)]),
        store.accounts.set_password(bad, "hash"),
        store.accounts.set_disabled(bad, disabled=True),
        store.accounts.replace_hash("alice", "hash", bad),
        store.accounts.add_secret(bad, AccountSecret("s", "h")),
        store.accounts.remove_secret(bad, "s"),
        store.accounts.adjust(bad, superuser=True),
        store.accounts.adjust("alice", attributes={"a": bad}),
        store.accounts.adjust("alice", certificates=[bad]),
        store.accounts.list(after=bad),
    ):
        with pytest.raises(CompanionError):
            await call
    assert await store.accounts.get("alice") is None


async def test_seen_by_others_and_after_reopening(open_store: Open) -> None:
    """Another store sees an account as soon as it was added or changed, and so does one that is opened later."""
    async with open_store() as store, open_store() as other:
        await store.accounts.add([account("alice"), account("bob")])
        assert await other.accounts.get("alice") == account("alice")
        await other.accounts.set_disabled("alice", disabled=True)
        await store.accounts.set_password("bob", "new")
        assert await store.accounts.get("alice") == account("alice", disabled=True)
    async with open_store() as store:
        assert await everybody(store) == [account("alice", disabled=True), account("bob", password_hash="new")]
