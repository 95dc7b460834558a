"""The port `Audits`."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from companion.core.chain import Chain, Entry
from companion.core.errors import CompanionError
from companion.core.model import Audit
from companion.core.ports import Store
from companion.core.seals import ChainCheck, Report, Seal, Segment
from tests.support.adapters import Open
from tests.support.entities import HOSTILE, audit

PORTS = {"audits"}


async def details(store: Store, limit: int = 1000) -> list[str]:
    """Return the details of the records, oldest first."""
    return [record.detail for record in await store.audits.latest(limit)][::-1]


async def test_every_field_comes_back(store: Store) -> None:
    """What was appended is what is found."""
    texts = {name: f"the {name} é 🦔" for name in Audit._fields if name != "at"}
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


async def entries_of(store: Store, chain: str) -> list[Entry]:
    found: list[Entry] = []
    while some := await store.audits.entries(chain, found[-1].number if found else 0, 3):
        found += some
    return found


def count_of(entries: list[Entry]) -> int:
    """Return how many problems a check finds."""
    report = Report()
    check = ChainCheck(entries[0].chain, report)
    check.take(entries)
    check.finish()
    return report.count


async def test_entries_are_stored_once(store: Store, other: Store) -> None:
    """The entries of a chain that come again, in whatever batches, are there once; all of an entry comes back."""
    sealed = list(Chain().seal([audit(number, detail=str(number), source="hooks") for number in range(8)]))
    await store.audits.keep(sealed[:5])
    await other.audits.keep(sealed[:3])
    await other.audits.keep(sealed[2:])
    await store.audits.keep([])
    assert await details(store) == [str(number) for number in range(8)]
    found = await entries_of(store, sealed[0].chain)
    assert [one._replace(id="") for one in found] == [one._replace(id="") for one in sealed]
    assert count_of(found) == 0
    assert await entries_of(store, "nobody's") == []


async def test_chains(store: Store) -> None:
    """Every chain is told with its ends; what is appended without one gets its own, so nothing is outside of a chain."""
    first, second = Chain(), Chain()
    await store.audits.keep(first.seal([audit(1), audit(2)]))
    await store.audits.keep(second.seal([audit(3)]))
    await store.audits.append([audit(4), audit(5), audit(6)])
    states = await store.audits.chains("", 10)
    assert [one.chain for one in states] == sorted(one.chain for one in states)
    known = {one.chain: (one.first, one.last, one.size) for one in states}
    assert (known[first.name], known[second.name]) == ((1, 2, 2), (1, 1, 1))
    (third,) = [one for one in states if one.chain not in (first.name, second.name)]
    assert (third.first, third.last, third.size) == (1, 3, 3)
    assert count_of(await entries_of(store, third.chain)) == 0
    assert [len(await store.audits.chains(states[number].chain, 10)) for number in range(3)] == [2, 1, 0]
    assert await store.audits.unchained(0) == 0
    assert await store.audits.extent() == (6, 1)


async def test_the_extent_of_nothing(store: Store) -> None:
    """Without records there is no oldest one."""
    assert await store.audits.extent() == (0, 0)
    assert list(await store.audits.chains("", 10)) == []


async def test_refusals(store: Store) -> None:
    """Refusals since a time, the newest first, and nothing else."""
    verdicts = ("deny", "allow", "deny", "done", "deny")
    await store.audits.append([audit(at, verdict=verdict, detail=str(at)) for at, verdict in enumerate(verdicts)])
    await store.audits.append([audit(9, kind="shadow", detail="would"), audit(3, kind="broker", detail="banned")])
    assert [one.detail for one in await store.audits.refused(0, 10)] == ["4", "banned", "2", "0"]
    assert [one.detail for one in await store.audits.refused(1, 10)] == ["4", "banned", "2"]
    assert [one.detail for one in await store.audits.refused(0, 1)] == ["4"]


async def test_salts_of_the_pseudonymised(store: Store) -> None:
    """Only records whose user name is a pseudonym lose their salts, and still prove all else."""
    pseudonym = "anon-mfzwizltoq2gcz3joa5tembzhe"
    sealed = list(
        Chain().seal([audit(1, username="alice"), audit(2, username="anon-ymous"), audit(3, username="alice")])
    )
    replaced = [
        sealed[0].audit._replace(username=pseudonym),
        sealed[1].audit,
        sealed[2].audit._replace(username=pseudonym),
    ]
    await store.audits.keep([one._replace(audit=other) for one, other in zip(sealed, replaced, strict=True)])
    assert [await store.audits.forget_salts(1) for _ in range(3)] == [1, 1, 0]
    found = await entries_of(store, sealed[0].chain)
    assert [bool(one.salt) for one in found] == [False, True, False]
    assert count_of(found) == 0


async def test_seals(store: Store, other: Store) -> None:
    """Seals come back as they were, in order, one of each number."""
    assert await store.audits.last_seal() is None
    segments = (Segment("c", 1, 2, 2, "", "h", 5, 6), Segment("d", 1, 1, 1, "", "g", 7, 7))
    first = Seal(1, 1000, "run 1", "", segments).closed()
    second = Seal(2, 2000, "run 2", first.root, ()).closed()
    assert await store.audits.add_seal(first)
    assert not await other.audits.add_seal(replace(first, run="another"))
    assert await other.audits.add_seal(second)
    assert list(await store.audits.seals(0, 10)) == [first, second]
    assert list(await store.audits.seals(0, 1)) == [first]
    assert list(await store.audits.seals(1, 10)) == [second]
    assert await store.audits.last_seal() == second
