"""The port `Inbox`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from companion.core.errors import CompanionError
from companion.core.model import Change, ChangeOp
from companion.core.ports import Received, Store, Taken
from tests.support.adapters import Open
from tests.support.entities import HOSTILE, change, changes

PORTS = {"inbox"}

FOR_EVER = 2**53


async def everything(store: Store, limit: int = 1000) -> Sequence[Received]:
    """Return what is to be published, page by page."""
    found: list[Received] = []
    while page := await store.inbox.read(found[-1].position if found else 0, limit):
        assert len(page) <= limit
        found += page
    return found


async def event_ids(store: Store) -> Sequence[str]:
    return [item.change.event_id for item in await everything(store)]


async def test_empty_at_first(store: Store) -> None:
    """A new inbox holds nothing, and taking nothing leaves it so."""
    assert await store.inbox.append([]) == Taken(0, 0)
    assert list(await store.inbox.read(0, 10)) == []
    assert list(await store.inbox.dead()) == []
    assert await store.inbox.backlog(0) == 0


@pytest.mark.parametrize("op", ChangeOp)
async def test_every_field_comes_back(store: Store, op: ChangeOp) -> None:
    """What was appended is what is read, with a position."""
    wanted = Change("e1", op, "the db", "the collection", "the id", 1_700_000_000_123, {"owner": "a"}, {"owner": "b"})
    assert await store.inbox.append([wanted]) == Taken(1, 0)
    (item,) = await store.inbox.read(0, 10)
    assert item == Received(item.position, wanted)
    assert item.position > 0


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"": ""},
        {"shares": [], "owner": None, "nested": {"deep": [[{"er": [True, False, None]}]]}},
        {"numbers": [0, -1, 2**63 - 1, -(2**63), 0.1, -1e-300, 1.5e300]},
        {"é": "🦔 \u2028 \x7f \t \\ \" '", "_id": "x", "$set": 1, "a.b": 2, "__proto__": 3},
        {"long": "x" * 100_000},
    ],
    ids=["none", "empty", "empty key", "nested", "numbers", "text", "long"],
)
async def test_documents_come_back(store: Store, document: Mapping[str, Any] | None) -> None:
    """A document is read as it was given; an empty one is not the same as none."""
    wanted = [change("e1", before=document, after=None), change("e2", before=None, after=document)]
    await store.inbox.append(wanted)
    assert [item.change for item in await everything(store)] == wanted


async def test_names_are_what_they_are(store: Store) -> None:
    """Event ids that look alike are different events, and every name is kept as it is."""
    wanted = [change(name, id=name, db=name, collection=name) for name in HOSTILE]
    assert await store.inbox.append(wanted) == Taken(len(HOSTILE), 0)
    assert [item.change for item in await everything(store)] == wanted


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_reading_in_order(store: Store, limit: int) -> None:
    """Page by page everything comes once, in the order in which it was taken, at growing positions."""
    await store.inbox.append(changes("a", 10))
    await store.inbox.append(changes("b", 10))
    found = await everything(store, limit)
    assert [item.change for item in found] == changes("a", 10) + changes("b", 10)
    positions = [item.position for item in found]
    assert positions == sorted(set(positions))


async def test_an_event_is_taken_once(store: Store, other: Store) -> None:
    """A known event id is counted and left as it first came, whoever sends it again."""
    assert await store.inbox.append([change("e1", id="first"), change("e2")]) == Taken(2, 0)
    assert await store.inbox.append([change("e1", id="second")]) == Taken(0, 1)
    assert await other.inbox.append([change("e3"), change("e1"), change("e2"), change("e4")]) == Taken(2, 2)
    assert (await everything(store))[0].change.id == "first"
    assert await event_ids(store) == ["e1", "e2", "e3", "e4"]


async def test_an_event_twice_in_one_batch(store: Store) -> None:
    """Within a batch the first one counts."""
    batch = [change("e1", id="first"), change("e2"), change("e1", id="second"), change("e1", id="third")]
    assert await store.inbox.append(batch) == Taken(2, 2)
    assert [item.change for item in await everything(store)] == batch[:2]


async def test_an_event_is_known_after_reopening(open_store: Open) -> None:
    """Neither reopening nor having been published lets an event in again."""
    async with open_store() as store:
        await store.inbox.append([change("e1"), change("e2"), change("e3")])
        first, second, _ = await everything(store)
        await store.inbox.acknowledge([(first.position, 1)])
        await store.inbox.bury(second.position, "refused")
    async with open_store() as store:
        assert await store.inbox.append([change("e1"), change("e2"), change("e3")]) == Taken(0, 3)
        assert await event_ids(store) == ["e3"]


async def test_the_same_event_from_everywhere_at_once(store: Store, other: Store) -> None:
    """Of many who send one event at the same time, one is told that it is new."""
    taking = [(store, other)[number % 2].inbox.append([change("e1", id=str(number))]) for number in range(20)]
    outcomes = await asyncio.gather(*taking)
    assert sorted(outcomes, key=lambda taken: taken.duplicates) == [Taken(1, 0)] + [Taken(0, 1)] * 19
    (item,) = await everything(store)
    assert outcomes[int(item.change.id)] == Taken(1, 0)


async def test_all_or_none(store: Store) -> None:
    """A change that cannot be stored keeps its whole batch out, wherever it stands in it."""
    for bad in (change("bad", id="\ud800"), change("bad", at=2**200)):
        with pytest.raises(CompanionError):
            await store.inbox.append([change("e1"), bad, change("e2")])
    assert await event_ids(store) == []
    assert await store.inbox.append([change("e1"), change("e2")]) == Taken(2, 0)


async def test_a_failure_harms_no_batch_beside_it(store: Store) -> None:
    """Batches that fail among many at once take none of the good ones with them."""
    taking = [
        store.inbox.append([change(f"{number}-a"), change(f"{number}-b", id="\ud800" if number % 3 == 0 else "x")])
        for number in range(60)
    ]
    outcomes = await asyncio.gather(*taking, return_exceptions=True)
    assert [isinstance(outcome, CompanionError) for outcome in outcomes] == [number % 3 == 0 for number in range(60)]
    expected = {f"{number}-{letter}" for number in range(60) if number % 3 for letter in "ab"}
    assert set(await event_ids(store)) == expected


async def test_many_at_once_keep_their_order(store: Store, other: Store) -> None:
    """Batches appended at once through two stores are all there, each in its order."""
    batches = [changes(f"b{number}", 10) for number in range(40)]
    taking = [(store, other)[index % 2].inbox.append(batch) for index, batch in enumerate(batches)]
    assert await asyncio.gather(*taking) == [Taken(10, 0)] * 40
    found = [item.change for item in await everything(store)]
    assert len(found) == 400
    for batch in batches:
        members = {one.event_id for one in batch}
        assert [one for one in found if one.event_id in members] == batch


async def test_a_reader_beside_writers_misses_nothing(store: Store, other: Store) -> None:
    """Reading on from the last position while others append meets every change once: nothing appears behind the reader."""
    batches = [changes(f"b{number}", 3) for number in range(60)]
    done = asyncio.Event()

    async def follow() -> list[str]:
        seen: list[str] = []
        position = 0
        while True:
            last_round = done.is_set()
            for item in await store.inbox.read(position, 10):
                position = item.position
                seen.append(item.change.event_id)
                last_round = False
            if last_round:
                return seen

    async with asyncio.TaskGroup() as group:
        reader = group.create_task(follow())
        await asyncio.gather(*((store, other)[i % 2].inbox.append(batch) for i, batch in enumerate(batches)))
        done.set()
    seen = reader.result()
    assert len(seen) == len(set(seen))
    assert set(seen) == {one.event_id for batch in batches for one in batch}


async def test_what_is_acknowledged_is_not_read_again(open_store: Open) -> None:
    """Acknowledged changes are neither read nor counted, also after reopening; unknown positions are no error."""
    async with open_store() as store:
        await store.inbox.append(changes("e", 5))
        positions = [item.position for item in await everything(store)]
        await store.inbox.acknowledge([(positions[1], 10), (positions[3], 11)])
        await store.inbox.acknowledge([(positions[1], 12), (positions[-1] + 1000, 12)])
        await store.inbox.acknowledge([])
    async with open_store() as store:
        assert await event_ids(store) == ["e-0", "e-2", "e-4"]
        assert await store.inbox.backlog(0) == 3
        assert await store.inbox.backlog(positions[2]) == 1
        assert await store.inbox.backlog(positions[4]) == 0
        assert list(await store.inbox.dead()) == []


async def test_dead_changes(open_store: Open) -> None:
    """A dead change is not read, but kept with its reason, oldest first; reopening changes nothing."""
    async with open_store() as store:
        await store.inbox.append(changes("e", 4))
        items = await everything(store)
        await store.inbox.bury(items[2].position, "the later one: é 🦔")
        await store.inbox.bury(items[0].position, "the earlier one")
        await store.inbox.bury(items[-1].position + 1000, "nobody")
    async with open_store() as store:
        assert list(await store.inbox.dead()) == [(items[0], "the earlier one"), (items[2], "the later one: é 🦔")]
        assert list(await store.inbox.dead(limit=1)) == [(items[0], "the earlier one")]
        assert await event_ids(store) == ["e-1", "e-3"]
        assert await store.inbox.backlog(0) == 2


async def test_pruning(store: Store) -> None:
    """Only what stands at or before the position goes, as many as asked for; dead changes stay."""
    await store.inbox.append(changes("e", 10))
    items = await everything(store)
    await store.inbox.bury(items[1].position, "why")
    await store.inbox.acknowledge([(item.position, 1) for item in items if item is not items[1]])
    through = items[6].position
    for limit in (4, 100):
        due = await store.inbox.prune(through=through, before=FOR_EVER, limit=limit, dry=True)
        assert due == min(limit, 6)
    assert [await store.inbox.prune(through=through, before=FOR_EVER, limit=4) for _ in range(3)] == [4, 2, 0]
    assert list(await store.inbox.dead()) == [(items[1], "why")]
    known = await store.inbox.append(changes("e", 10))
    assert known == Taken(accepted=6, duplicates=4)


async def test_pruning_spares_the_young(store: Store) -> None:
    """What was taken at or after the given time stays."""
    begun = int(time.time() * 1000)
    await store.inbox.append(changes("e", 3))
    (*_, last) = await everything(store)
    assert await store.inbox.prune(through=last.position, before=begun, limit=10) == 0
    assert await store.inbox.prune(through=last.position, before=FOR_EVER, limit=10) == 3


async def test_positions_are_never_used_again(open_store: Open) -> None:
    """Positions grow on after everything was pruned and the store reopened: a checkpoint never stands before old numbers."""
    highest = 0
    for round_ in range(3):
        async with open_store() as store:
            await store.inbox.append(changes(f"r{round_}", 5))
            positions = [item.position for item in await everything(store)]
            assert min(positions) > highest
            highest = max(positions)
            await store.inbox.acknowledge([(position, 1) for position in positions])
            assert await store.inbox.prune(through=highest, before=FOR_EVER, limit=100) == 5
            assert await everything(store) == []


async def test_seen_by_others_and_after_reopening(open_store: Open) -> None:
    """Another store sees a change as soon as it was taken, and so does one that is opened later."""
    async with open_store() as store, open_store() as other:
        await store.inbox.append(changes("a", 2))
        assert await event_ids(other) == ["a-0", "a-1"]
        await other.inbox.append(changes("b", 2))
        before = await everything(store)
    async with open_store() as store:
        assert await everything(store) == before
        assert [item.change for item in before] == changes("a", 2) + changes("b", 2)
