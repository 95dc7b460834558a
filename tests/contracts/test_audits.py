"""The port `Audits`."""

from __future__ import annotations

import asyncio
from dataclasses import fields

import pytest

from companion.core.errors import CompanionError
from companion.core.model import Audit
from companion.core.ports import Store
from tests.support.adapters import Open
from tests.support.entities import HOSTILE, audit

PORTS = {"audits"}


async def details(store: Store, limit: int = 1000) -> list[str]:
    """Return the details of the records, oldest first."""
    return [record.detail for record in await store.audits.latest(limit)][::-1]


async def test_every_field_comes_back(store: Store) -> None:
    """What was appended is what is found."""
    texts = {field.name: f"the {field.name} é 🦔" for field in fields(Audit) if field.name != "at"}
    wanted = Audit(17, **texts)
    await store.audits.append([wanted, audit()])
    assert list(await store.audits.latest(10)) == [audit(), wanted]


async def test_hostile_text(store: Store) -> None:
    """Whatever a client calls itself is kept as it is."""
    wanted = [audit(username=name, client_id=f"{name}\n\x1b[31m\0", topic=name) for name in HOSTILE]
    await store.audits.append(wanted)
    assert list(await store.audits.latest(100)) == wanted[::-1]


async def test_the_newest_first(store: Store) -> None:
    """Newest means appended last, whatever the clock said; the limit cuts the oldest."""
    assert list(await store.audits.latest(10)) == []
    await store.audits.append([audit(500, detail="a"), audit(100, detail="b")])
    await store.audits.append([])
    await store.audits.append([audit(300, detail="c")])
    assert [record.detail for record in await store.audits.latest(10)] == ["c", "b", "a"]
    assert [record.detail for record in await store.audits.latest(2)] == ["c", "b"]


async def test_many_at_once_keep_their_order(store: Store, other: Store) -> None:
    """Batches appended at once through two stores are all there, each in its order."""
    batches = [[audit(detail=f"{batch}-{number}") for number in range(10)] for batch in range(20)]
    await asyncio.gather(*((store, other)[index % 2].audits.append(batch) for index, batch in enumerate(batches)))
    found = await details(store)
    assert len(found) == 200
    for index, batch in enumerate(batches):
        assert [detail for detail in found if detail.startswith(f"{index}-")] == [record.detail for record in batch]


async def test_all_or_none(store: Store) -> None:
    """A record that cannot be stored keeps its whole batch out, and nothing of the next."""
    with pytest.raises(CompanionError):
        await store.audits.append([audit(detail="good"), audit(detail="\ud800")])
    await store.audits.append([audit(detail="next")])
    assert await details(store) == ["next"]


async def test_pruning(store: Store) -> None:
    """Only what is older than the given millisecond goes, as many as asked for, and the number is told."""
    await store.audits.append([audit(at, detail=str(at)) for at in (5, 100, 1, 99, 2, 3, 101)])
    assert [await store.audits.prune(100, limit, dry=True) for limit in (3, 100)] == [3, 5]
    assert [await store.audits.prune(100, 3) for _ in range(3)] == [3, 2, 0]
    assert await details(store) == ["100", "101"]


async def test_trimming(store: Store) -> None:
    """Of the records beyond the newest, the oldest go, as many as asked for, and the number is told."""
    await store.audits.append([audit(detail=str(number)) for number in range(10)])
    assert [await store.audits.trim(4, limit, dry=True) for limit in (5, 100)] == [5, 6]
    assert [await store.audits.trim(4, 5) for _ in range(3)] == [5, 1, 0]
    assert await details(store) == ["6", "7", "8", "9"]
    assert await store.audits.trim(100, 5) == 0
    assert await store.audits.trim(0, 100) == 4
    assert await details(store) == []


async def test_trimming_counts_what_is_there(store: Store) -> None:
    """What was pruned from between the others does not count: nothing is trimmed before there is too much."""
    await store.audits.append([audit(1 if 2 <= number < 8 else 100, detail=str(number)) for number in range(10)])
    assert await store.audits.prune(50, 100) == 6
    assert await store.audits.trim(4, 100) == 0
    assert await details(store) == ["0", "1", "8", "9"]
    assert await store.audits.trim(3, 100) == 1
    assert await details(store) == ["1", "8", "9"]


async def test_seen_by_others_and_after_reopening(open_store: Open) -> None:
    """Another store sees a record as soon as it was appended, and so does one that is opened later."""
    async with open_store() as store, open_store() as other:
        await store.audits.append([audit(detail="a")])
        await other.audits.append([audit(detail="b")])
        assert await details(store) == await details(other) == ["a", "b"]
    async with open_store() as store:
        await store.audits.append([audit(detail="c")])
        assert await details(store) == ["a", "b", "c"]
