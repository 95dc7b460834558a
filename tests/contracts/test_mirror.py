"""The port `Mirror`."""

from __future__ import annotations

from typing import Any

import pytest

from companion.core.errors import CompanionError, Fenced, Forgotten
from companion.core.ports import Copy, Mirror
from companion.stores.digests import digest_of, digest_of_all
from tests.support.entities import HOSTILE
from tests.support.eventually import eventually

PORTS = {"mirror"}
WHAT = "identity.users"


def copy(entity_id: str, version: int = 1, *, name: str = "", **document: Any) -> Copy:
    return Copy(entity_id, version, {"id": entity_id, **document}, (("name", name),) if name else ())


def gone(entity_id: str, version: int) -> Copy:
    return Copy(entity_id, version, None)


@pytest.fixture
async def mirror(store: Any) -> Mirror:
    """Return a mirror whose copies may be read."""
    found: Mirror = store.mirror
    await found.serve(WHAT, 60, 1)
    return found


async def test_by_id_and_by_key(mirror: Mirror) -> None:
    """A copy is found by its id and by its keys, also by names that a store could confuse."""
    copies = [copy(name, 7, name=f"key of {name}", n=number) for number, name in enumerate(HOSTILE)]
    assert await mirror.put(WHAT, copies, 1) == len(copies)
    for one, name in zip(copies, HOSTILE, strict=True):
        assert await mirror.get(WHAT, name) == one
        assert await mirror.find(WHAT, "name", f"key of {name}") == [one]
    assert await mirror.get(WHAT, "nobody") is None
    assert await mirror.find(WHAT, "name", "nobody") == []
    assert await mirror.find(WHAT, "other", f"key of {HOSTILE[0]}") == []
    assert await mirror.get("thing.devices", HOSTILE[0]) is None


async def test_the_newest_stays(mirror: Mirror) -> None:
    """Whatever comes late or twice changes nothing; who is gone does not come back by a late word."""
    assert await mirror.put(WHAT, [copy("a", 5, name="x"), copy("b", 5, name="x")], 1) == 2
    assert await mirror.put(WHAT, [copy("a", 5, late=1), copy("a", 4, late=1)], 1) == 0
    assert [one.id for one in await mirror.find(WHAT, "name", "x") or ()] == ["a", "b"]
    assert await mirror.put(WHAT, [copy("a", 2**63, name="y")], 1) == 1
    assert [one.id for one in await mirror.find(WHAT, "name", "x") or ()] == ["b"]
    assert [one.id for one in await mirror.find(WHAT, "name", "y") or ()] == ["a"]
    assert await mirror.put(WHAT, [gone("a", 2**63), gone("b", 6), gone("c", 6)], 1) == 2
    assert await mirror.get(WHAT, "b") is None
    assert await mirror.find(WHAT, "name", "x") == []
    assert await mirror.put(WHAT, [copy("b", 6), copy("c", 5)], 1) == 0
    assert await mirror.put(WHAT, [copy("b", 7, name="x")], 1) == 1
    assert [one.version for one in await mirror.find(WHAT, "name", "x") or ()] == [7]


async def test_only_while_it_is_served(store: Any, other: Any) -> None:
    """When its writer is silent for too long, nothing is read; later it is again."""
    mirror = store.mirror
    await mirror.put(WHAT, [copy("a", name="x")], 1)
    assert await other.mirror.get(WHAT, "a") is None
    await mirror.serve(WHAT, 0.2, 1)

    async def over() -> bool:
        return await other.mirror.get(WHAT, "a") is None and await other.mirror.find(WHAT, "name", "x") is None

    await eventually(over, what="it is not served any more")
    await mirror.serve(WHAT, 60, 1)
    assert await other.mirror.get(WHAT, "a") == copy("a", name="x")


async def test_fences(store: Any, other: Any) -> None:
    """After a later writer an earlier one changes nothing."""
    mirror = store.mirror
    generation = await mirror.begin(WHAT, 1)
    await other.mirror.serve(WHAT, 60, 2)
    for late in (
        mirror.put(WHAT, [copy("a")], 1),
        mirror.begin(WHAT, 1),
        mirror.promote(WHAT, generation, 1),
        mirror.serve(WHAT, 1, 1),
        mirror.sweep(WHAT, 1, 1),
    ):
        with pytest.raises(Fenced):
            await late
    assert await other.mirror.get(WHAT, "a") is None
    assert await other.mirror.put(WHAT, [copy("a")], 2) == 1
    assert await mirror.put("thing.devices", [copy("a")], 1) == 1


async def test_digests(mirror: Mirror) -> None:
    """A range has one digest, that of the digests in the order of their ids; the same documents give the same one."""
    copies = [copy(f"{number:04}", n=number) for number in range(100)]
    shuffled = copies[::2] + copies[1::2]
    await mirror.put(WHAT, shuffled, 1)
    each = [digest_of(one.document or {}) for one in copies]
    assert await mirror.digest(WHAT, "", None) == digest_of_all(each)
    assert await mirror.digest(WHAT, "0009", "0019") == digest_of_all(each[10:20])
    assert await mirror.digests(WHAT, "0097", None) == {"0098": each[98], "0099": each[99]}
    assert await mirror.digest(WHAT, "0099", None) == digest_of_all([])
    await mirror.put(WHAT, [copy("0010", 2, n=0)], 1)
    assert await mirror.digest(WHAT, "0009", "0019") != digest_of_all(each[10:20])
    assert digest_of({"a": 1, "b": {"c": 2, "d": 3}}) == digest_of({"b": {"d": 3, "c": 2}, "a": 1})


async def test_a_rebuild(mirror: Mirror) -> None:
    """A new generation is filled unseen, then read as a whole; what it does not have is gone; the old one is swept away."""
    await mirror.put(WHAT, [copy(f"{number}", name="x") for number in range(5)], 1)
    generation = await mirror.begin(WHAT, 1)
    await mirror.put(WHAT, [copy("3", 9, name="x"), copy("new", 9)], 1, generation)
    assert len(await mirror.find(WHAT, "name", "x") or ()) == 5
    assert await mirror.get(WHAT, "new") is None
    await mirror.promote(WHAT, generation, 1)
    assert [one.id for one in await mirror.find(WHAT, "name", "x") or ()] == ["3"]
    assert await mirror.get(WHAT, "new") == copy("new", 9)
    assert [await mirror.sweep(WHAT, 2, 1) for _ in range(4)] == [2, 2, 1, 0]
    assert await mirror.get(WHAT, "3") == copy("3", 9, name="x")
    abandoned = await mirror.begin(WHAT, 1)
    await mirror.put(WHAT, [copy("lost")], 1, abandoned)
    await mirror.promote(WHAT, await mirror.begin(WHAT, 1), 1)
    assert await mirror.sweep(WHAT, 10, 1) == 3
    assert await mirror.get(WHAT, "3") is None


async def test_what_is_swept_stays_so(mirror: Mirror) -> None:
    """Of an older generation who is gone is forgotten as well; and what is put there later, or where none began, is refused."""
    abandoned = await mirror.begin(WHAT, 1)
    await mirror.put(WHAT, [copy("a"), gone("b", 1), gone("c", 1)], 1, abandoned, number=1)
    await mirror.promote(WHAT, live := await mirror.begin(WHAT, 1), 1)
    assert await mirror.put(WHAT, [gone("b", 1)], 1, abandoned, number=2) == 0
    assert [await mirror.sweep(WHAT, 2, 1) for _ in range(3)] == [2, 1, 0]
    for late in (abandoned, live + 1):
        with pytest.raises(Forgotten):
            await mirror.put(WHAT, [copy("a")], 1, late, number=1)
        with pytest.raises(Forgotten):
            await mirror.put(WHAT, [gone("a", 2)], 1, late)
    assert await mirror.sweep(WHAT, 2, 1) == 0
    assert await mirror.put(WHAT, [copy("a")], 1, live, number=1) == 1


async def test_a_time_that_is_over(mirror: Mirror) -> None:
    """Who asks late to let the copies be read lets nobody read for longer; from when is told by the mirror's own clock."""
    what = "thing.devices"
    now = await mirror.clock(what)
    await mirror.serve(what, 1.0, 1, since=now - 1000)
    assert await mirror.find(what, "name", "x") is None
    await mirror.serve(what, 60.0, 1, since=now - 1000)
    assert await mirror.find(what, "name", "x") == []


async def test_what_was_forgotten(mirror: Mirror) -> None:
    """Puts with numbers are an unbroken row: one whose forerunner is not here is refused, and nothing is read any more."""
    generation = await mirror.begin(WHAT, 1)
    await mirror.put(WHAT, [copy("a")], 1, generation, number=1)
    await mirror.promote(WHAT, generation, 1)
    assert await mirror.put(WHAT, [copy("b")], 1, number=2) == 1
    assert await mirror.put(WHAT, [copy("b")], 1, number=2) == 0
    assert await mirror.put(WHAT, [copy("c")], 1) == 1
    await mirror.serve(WHAT, 60, 1, number=2)
    with pytest.raises(Forgotten):
        await mirror.put(WHAT, [copy("d")], 1, number=4)
    assert await mirror.get(WHAT, "d") is None
    with pytest.raises(Forgotten):
        await mirror.serve(WHAT, 60, 1, number=3)
    assert await mirror.get(WHAT, "a") is None


@pytest.mark.parametrize("one", [copy("a", -1), copy("a", 10**24), copy("a", n=object()), copy("\ud800")])
async def test_what_cannot_be_kept(mirror: Mirror, one: Copy) -> None:
    """It is refused, and nothing of the batch is taken."""
    with pytest.raises(CompanionError):
        await mirror.put(WHAT, [copy("b"), one], 1)
    assert await mirror.get(WHAT, "b") is None
