"""The port `Revocations`, and the sessions by which it is known whom they concern."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from companion.core.errors import Fenced
from companion.core.ports import Store, Waiting
from companion.core.revocations import Cause, Done, Revocation, Standing, Step, Target
from tests.support.adapters import Open
from tests.support.entities import HOSTILE, session

PORTS = {"revocations", "sessions"}
DONE = Done(Step.TOLD, 1500, 12, "3 clients")


def revocation(revocation_id: str = "r", **fields: Any) -> Revocation:
    """Return one of the account `alice`."""
    values: dict[str, Any] = {"target": Target.ACCOUNT, "name": "alice", "at": 1000, "due_at": 1000}
    return Revocation(revocation_id, **values | fields)


def ids(found: Sequence[Revocation | Standing]) -> list[str]:
    return [one.id for one in found]


async def test_every_field_comes_back(store: Store, other: Store) -> None:
    """What was added is what is found, once; whatever its target, its cause and its times."""
    wanted = [
        revocation("1"),
        revocation("2", target=Target.CLIENT, reason="stolen", asked_by="ops", until=5, ban_until=6),
        revocation("3", cause=Cause.PASSWORD, waiting=False, steps=(DONE, replace(DONE, step=Step.KICK))),
        revocation("4", target=Target.TOKEN, name="jti:1", lifted_at=7, attempts=3, error="no luck", fence=9),
    ]
    for one in wanted:
        assert await store.revocations.add(one)
    assert not await other.revocations.add(replace(wanted[0], name="bob"))
    for one in wanted:
        assert await other.revocations.get(one.id) == one
    assert await store.revocations.get("nobody") is None


async def test_whom_the_hooks_refuse(store: Store) -> None:
    """Those stand that were revoked, not lifted and whose time is not over; page by page, and by their keys."""
    await store.revocations.add(revocation("a"))
    await store.revocations.add(revocation("b", target=Target.SESSION, name="s", until=100))
    await store.revocations.add(revocation("c", lifted_at=5))
    await store.revocations.add(revocation("d", cause=Cause.DISABLED))
    await store.revocations.add(revocation("e", waiting=False))
    assert await store.revocations.standing(99) == [
        Standing("a", "account:alice", None),
        Standing("b", "session:s", 100),
        Standing("e", "account:alice", None),
    ]
    assert ids(await store.revocations.standing(100)) == ["a", "e"]
    assert ids(await store.revocations.standing(99, limit=2)) == ["a", "b"]
    assert ids(await store.revocations.standing(99, after="b")) == ["e"]
    assert ids(await store.revocations.of(["account:alice", "client:x"], 99)) == ["a", "e"]
    assert ids(await store.revocations.of(["session:s"], 99)) == ["b"]
    assert await store.revocations.of(["session:s"], 100) == []
    assert await store.revocations.of([], 99) == []


async def test_names_are_what_they_are(store: Store) -> None:
    """Names that look alike are revoked each for itself."""
    for number, name in enumerate(HOSTILE):
        await store.revocations.add(revocation(f"{number}", name=name))
    for number, name in enumerate(HOSTILE):
        assert ids(await store.revocations.of([f"account:{name}"], 0)) == [f"{number}"]


async def test_what_is_due(store: Store) -> None:
    """What waits is due when its time has come, the one due first first; what is done is never."""
    await store.revocations.add(revocation("late", due_at=30))
    await store.revocations.add(revocation("soon", due_at=10))
    await store.revocations.add(revocation("done", due_at=5, waiting=False))
    assert ids(await store.revocations.due(29, 10)) == ["soon"]
    assert ids(await store.revocations.due(30, 10)) == ["soon", "late"]
    assert ids(await store.revocations.due(30, 1)) == ["soon"]


async def test_steps_under_a_fence(store: Store, other: Store) -> None:
    """Who has claimed it notes what was done; a later one takes over, and then the one before notes nothing more."""
    await store.revocations.add(revocation())
    mine = await store.revocations.claim("r", 5)
    assert mine == replace(revocation(), fence=5)
    noted = await store.revocations.note(replace(mine, steps=(DONE,), due_at=2000, attempts=2, error="away"))
    assert await other.revocations.get("r") == noted
    assert (noted.steps, noted.due_at, noted.attempts, noted.error) == ((DONE,), 2000, 2, "away")
    theirs = await other.revocations.claim("r", 6)
    assert theirs == replace(noted, fence=6)
    with pytest.raises(Fenced):
        await store.revocations.note(noted)
    with pytest.raises(Fenced):
        await store.revocations.claim("r", 5)
    ended = await other.revocations.note(replace(theirs, waiting=False))
    assert not ended.waiting
    assert await other.revocations.claim("r", 7) is None
    assert await other.revocations.claim("nobody", 7) is None


async def test_lifting(store: Store, other: Store) -> None:
    """It refuses nobody any more and there is something to do again; once is enough, and a kick cannot be lifted."""
    await store.revocations.add(revocation(waiting=False))
    await store.revocations.add(revocation("kick", cause=Cause.PASSWORD))
    lifted = await other.revocations.lift("r", 3000)
    assert lifted == revocation(lifted_at=3000, waiting=True, due_at=3000)
    assert await store.revocations.standing(0) == []
    assert await store.revocations.lift("r", 4000) == lifted
    assert await store.revocations.lift("kick", 4000) is None
    assert await store.revocations.lift("nobody", 4000) is None


async def test_lifted_while_somebody_works(store: Store, other: Store) -> None:
    """Whoever is at the last step does not end what was lifted meanwhile: the steps are noted, and taking it back is due."""
    await store.revocations.add(revocation())
    mine = await store.revocations.claim("r", 5)
    assert mine is not None
    await other.revocations.lift("r", 3000)
    noted = await store.revocations.note(replace(mine, steps=(DONE,), waiting=False, due_at=9000, error="x"))
    assert (noted.waiting, noted.due_at, noted.lifted_at, noted.error) == (True, 3000, 3000, "")
    assert noted.steps == (DONE,)
    assert noted.next is Step.LIFTED


async def test_what_is_left(store: Store) -> None:
    """How many wait, and since when the oldest does; what was lifted waits since then."""
    assert await store.revocations.waiting() == Waiting(0)
    await store.revocations.add(revocation("a", at=500, waiting=False))
    await store.revocations.add(revocation("b", at=700))
    await store.revocations.add(revocation("c", at=600))
    assert await store.revocations.waiting() == Waiting(2, 600)
    await store.revocations.add(revocation("d", at=100, waiting=False))
    for one in ("b", "c"):
        claimed = await store.revocations.claim(one, 1)
        assert claimed is not None
        await store.revocations.note(replace(claimed, waiting=False))
    await store.revocations.lift("d", 900)
    assert await store.revocations.waiting() == Waiting(1, 900)


async def test_lists(store: Store) -> None:
    """The newest come first, all of them, or those that wait or do not."""
    for number in range(4):
        await store.revocations.add(revocation(f"{number}", at=number, waiting=number % 2 == 0))
    assert ids(await store.revocations.list()) == ["3", "2", "1", "0"]
    assert ids(await store.revocations.list(limit=2)) == ["3", "2"]
    assert ids(await store.revocations.list(waiting=True)) == ["2", "0"]
    assert ids(await store.revocations.list(waiting=False)) == ["3", "1"]


async def test_pruning(store: Store) -> None:
    """Old ones go once nobody is refused by them and nothing is left to do."""
    keep: list[dict[str, Any]] = [
        {"waiting": True, "lifted_at": 1},
        {},
        {"until": 10_000},
        {"at": 9_000, "lifted_at": 1},
    ]
    go: list[dict[str, Any]] = [{"lifted_at": 1}, {"until": 1}, {"cause": Cause.REMOVED}]
    for number, fields in enumerate([*keep, *go]):
        await store.revocations.add(revocation(f"{number}", **{"waiting": False, **fields}))
    assert await store.revocations.prune(5000, 100, dry=True) == 3
    assert await store.revocations.prune(5000, 2) == 2
    assert await store.revocations.prune(5000, 100) == 1
    assert ids(await store.revocations.list()) == ["3", "2", "1", "0"]


async def test_asked_for_at_once(store: Store, other: Store) -> None:
    """Of several that ask for the same at the same time one does."""
    asked = await asyncio.gather(*((store if n % 2 else other).revocations.add(revocation()) for n in range(10)))
    assert sorted(asked) == [False] * 9 + [True]


async def test_clients_of_sessions(store: Store) -> None:
    """Sessions are found by what they belong to, in pages; nothing belongs to an empty name."""
    for number in range(5):
        await store.sessions.put(session(f"u{number % 2}", f"s:{number}", session="s", jti=f"j{number % 2}"))
    await store.sessions.put(session("u", "t:1", session="t", digest="sha256:1"))
    assert await store.sessions.client_ids("session", "s") == ["s:0", "s:1", "s:2", "s:3", "s:4"]
    assert await store.sessions.client_ids("session", "s", limit=2) == ["s:0", "s:1"]
    assert await store.sessions.client_ids("session", "s", after="s:3") == ["s:4"]
    assert await store.sessions.client_ids("jti", "j1") == ["s:1", "s:3"]
    assert await store.sessions.client_ids("digest", "sha256:1") == ["t:1"]
    for by in ("session", "jti", "digest"):
        assert await store.sessions.client_ids(by, "") == []


async def test_seen_after_reopening(open_store: Open) -> None:
    """What was added is there when the store is opened again."""
    async with open_store() as store:
        await store.revocations.add(revocation())
    async with open_store() as store:
        assert await store.revocations.get("r") == revocation()
