"""The port `LongTokens`."""

from __future__ import annotations

from typing import Any

import pytest

from companion.core.errors import CompanionError, Invalid
from companion.core.long_tokens import LongToken
from companion.core.ports import Store
from tests.support.adapters import Open
from tests.support.entities import HOSTILE

PORTS = {"tokens"}


def token(number: str = "a", **more: Any) -> LongToken:
    return LongToken(**{"id": number, "digest": "d", "username": "alice", "scopes": ("whole",)} | more)


async def test_none_at_first(store: Store) -> None:
    """A new store has no tokens."""
    assert await store.tokens.get("a") is None
    assert list(await store.tokens.list()) == []
    assert await store.tokens.remove("a") is False


async def test_every_field_comes_back(store: Store) -> None:
    """What was added is what is found and listed, in the order of the ids."""
    added = [
        token("1"),
        token("2", scopes=("publish", "subscribe"), name='für "x"', expires_at=0, addresses=("10.0.0.0/8", "::/0")),
        token("3", username="bob", expires_at=253_402_300_799, created_at=7),
    ]
    for one in reversed(added):
        await store.tokens.add(one)
    assert [await store.tokens.get(one.id) for one in added] == added
    assert list(await store.tokens.list()) == added
    assert list(await store.tokens.list("bob")) == added[2:]
    assert list(await store.tokens.list("carol")) == []


async def test_an_id_comes_once(store: Store, other: Store) -> None:
    """An id that exists is refused, and the token that had it stays."""
    await store.tokens.add(token())
    with pytest.raises(Invalid, match="id: 'a'"):
        await other.tokens.add(token(username="bob"))
    assert await store.tokens.get("a") == token()


async def test_removing(store: Store, other: Store) -> None:
    """It is gone for every store at once, those beside it stay, and its id may come again."""
    await store.tokens.add(token("a"))
    await store.tokens.add(token("b"))
    assert await store.tokens.remove("a") is True
    assert await store.tokens.remove("a") is False
    assert await other.tokens.get("a") is None
    assert list(await other.tokens.list()) == [token("b")]
    await store.tokens.add(token("a"))


async def test_user_names_are_what_they_are(store: Store) -> None:
    """Names that look alike have tokens of their own."""
    for number, name in enumerate(HOSTILE):
        await store.tokens.add(token(f"{number:04}", username=name))
    for number, name in enumerate(HOSTILE):
        assert [one.id for one in await store.tokens.list(name)] == [f"{number:04}"]


async def test_what_cannot_be_stored(store: Store) -> None:
    """Text that is no UTF-8 is refused with an error of ours."""
    bad = "\ud800"
    for call in (store.tokens.add(token(username=bad)), store.tokens.get(bad), store.tokens.remove(bad)):
        with pytest.raises(CompanionError):
            await call
    assert list(await store.tokens.list()) == []


async def test_after_reopening(open_store: Open) -> None:
    """A store that is opened later has them."""
    async with open_store() as store:
        await store.tokens.add(token())
    async with open_store() as store:
        assert await store.tokens.get("a") == token()
