"""The chain of audit records: what is done to it is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from companion.core.chain import PERSONAL, Chain, Entry, changed_fields, intact, pseudonymous
from companion.core.model import Audit
from companion.core.seals import ChainCheck, Report, Seal, SealCheck, Segment
from tests.support.entities import HOSTILE, audit

ALICE = "anon-mfzwizltoq2gcz3joa5tembzhe"
DAY = 86_400_000


def made(count: int = 10, **fields: object) -> list[Entry]:
    return list(Chain().seal([audit(1000 + number, username="alice", detail="d", **fields) for number in range(count)]))


def checked(entries: Sequence[Entry], segments: Sequence[Segment] = (), cut: int = 0) -> Report:
    report = Report()
    check = ChainCheck(entries[0].chain if entries else segments[0].chain, report, segments=segments, cut=cut)
    check.take(entries)
    check.finish()
    return report


def segment_of(entries: Sequence[Entry]) -> Segment:
    check = ChainCheck(entries[0].chain, Report())
    check.take(entries)
    segment = check.finish()
    assert segment is not None
    return segment


def with_audit(entry: Entry, **fields: object) -> Entry:
    return entry._replace(audit=entry.audit._replace(**fields))  # type: ignore[arg-type]


def test_an_intact_chain() -> None:
    """Entries are numbered, each bears the hash before it, and a check finds nothing; ids and salts are their own."""
    entries = made()
    assert [one.number for one in entries] == list(range(1, 11))
    assert [one.before for one in entries] == ["", *(one.hash for one in entries[:-1])]
    assert len({one.id for one in entries}) == len({one.salt for one in entries}) == 10
    assert sorted(one.id for one in entries) == [one.id for one in entries]
    assert checked(entries).counts() == {"checked": 10, "unsealed": 10}
    assert checked(entries, [segment_of(entries)]).counts() == {"checked": 10}
    assert Chain().seal([]) == []


def test_several_batches_are_one_chain() -> None:
    """A writer's batches follow each other; those of two writers have nothing to do with each other."""
    chain = Chain()
    entries = [*chain.seal([audit(1)]), *chain.seal([audit(2), audit(3)])]
    assert checked(entries).count == 0
    assert made()[0].chain != made()[0].chain


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text(text: str) -> None:
    """Whatever stands in a record, it is proven."""
    (entry,) = Chain().seal([audit(username=text, client_id=text, topic=f"{text}\0\x1b", rule=text)])
    assert intact(entry)
    assert changed_fields(entry) == []


def test_nothing_of_who_it_is_can_be_read_from_the_commitments() -> None:
    """Two records of one person have nothing in common, and no commitment of an empty field tells anything."""
    first, second = made(2)
    assert not set(filter(None, first.marks.split(","))) & set(second.marks.split(","))
    assert "alice" not in first.marks


def dropped(entries: list[Entry]) -> list[Entry]:
    return [*entries[:4], *entries[5:]]


def dropped_from_the_end(entries: list[Entry]) -> list[Entry]:
    return entries[:-1]


def dropped_from_the_beginning(entries: list[Entry]) -> list[Entry]:
    return entries[1:]


def altered(entries: list[Entry]) -> list[Entry]:
    return [*entries[:4], with_audit(entries[4], reason="rule"), *entries[5:]]


def altered_name(entries: list[Entry]) -> list[Entry]:
    return [*entries[:4], with_audit(entries[4], username="mallory"), *entries[5:]]


def moved_in_time(entries: list[Entry]) -> list[Entry]:
    return [*entries[:4], with_audit(entries[4], at=7), *entries[5:]]


def inserted(entries: list[Entry]) -> list[Entry]:
    (other,) = Chain().seal([audit(5)])
    return [*entries[:4], other._replace(chain=entries[0].chain, number=5), *entries[4:]]


def swapped(entries: list[Entry]) -> list[Entry]:
    first, second = entries[4]._replace(number=6), entries[5]._replace(number=5)
    return [*entries[:4], second, first, *entries[6:]]


def written_anew(entries: list[Entry]) -> list[Entry]:
    """Return what somebody makes who knows how hashes are made."""
    forged = Chain()
    forged.name = entries[0].chain
    return list(forged.seal([one.audit._replace(reason="rule") for one in entries]))


def nothing_left(entries: list[Entry]) -> list[Entry]:
    return entries[:0]


DEEDS = [
    dropped,
    dropped_from_the_end,
    dropped_from_the_beginning,
    altered,
    altered_name,
    moved_in_time,
    inserted,
    swapped,
    written_anew,
    nothing_left,
]


@pytest.mark.parametrize("deed", DEEDS)
def test_what_is_done_after_a_seal_is_found(deed: Callable[[list[Entry]], list[Entry]]) -> None:
    """Whatever is removed, altered, put in between or made anew is found."""
    entries = made()
    report = checked(deed(entries), [segment_of(entries)])
    assert report.count > 0
    assert report.problems


@pytest.mark.parametrize("deed", [dropped, altered, altered_name, inserted, swapped, dropped_from_the_beginning])
def test_most_is_found_without_a_seal(deed: Callable[[list[Entry]], list[Entry]]) -> None:
    """Only the end of a chain needs a seal to prove it."""
    assert checked(deed(made())).count > 0


def test_where_it_is() -> None:
    """A problem says in which chain and at which number it is, and what it is."""
    entries = made()
    (problem,) = checked(dropped(entries)).problems
    assert problem == (f"{entries[0].chain}:5", "it is missing")
    report = checked([*entries[:2], *entries[6:]], [segment_of(entries)])
    assert (report.count, report.problems[0].what) == (4, "4 entries are missing")


def test_pseudonyms() -> None:
    """A record whose personal fields gave way to pseudonyms is known as such; another name in their place is an alteration."""
    entries = made(3, topic="devices/alice/state", client_id="alice:1")
    replaced = with_audit(entries[1], username=ALICE, topic=f"devices/{ALICE}/state", client_id=f"{ALICE}:1")
    assert checked([entries[0], replaced, entries[2]]).counts() == {"checked": 3, "unsealed": 3, "pseudonymised": 1}
    forgotten = replaced._replace(salt="")
    assert checked([entries[0], forgotten, entries[2]]).counts() == {"checked": 3, "unsealed": 3, "pseudonymised": 1}
    for wrong in (
        with_audit(replaced, detail="another"),
        with_audit(replaced, reason="rule"),
        with_audit(entries[1], username="anon-me"),
        entries[1]._replace(salt=""),
        entries[1]._replace(salt="", marks="x"),
    ):
        assert checked([entries[0], wrong, entries[2]]).count == 1
    assert pseudonymous("ffffffff0c1d2e3f40516273")
    assert not pseudonymous("")


def test_what_was_old_enough_may_be_missing() -> None:
    """The records of segments that had become old enough may be gone, whole or in part; younger ones may not."""
    chain = Chain()
    days = [
        list(chain.seal([Audit(day * DAY + number, "auth", "deny", "x") for number in range(5)])) for day in range(4)
    ]
    everything = [one for day in days for one in day]
    segments, before = [], ""
    for day in days:
        check = ChainCheck(chain.name, Report(), after=day[0].number - 1, before=before)
        check.take(day)
        segment = check.finish()
        assert segment is not None
        segments.append(segment)
        before = segment.head
    assert checked(everything, segments).counts() == {"checked": 20}
    for gone in (5, 7, 10):
        report = checked(everything[gone:], segments, cut=2 * DAY - 1)
        assert report.counts() == {"checked": 20 - gone, "expired": gone}
    report = checked(everything[12:], segments, cut=2 * DAY - 1)
    assert report.counts() == {"checked": 8, "expired": 10, "problems": 2}
    # A removal by another policy leaves holes.
    report = checked([*everything[:2], *everything[4:]], segments, cut=DAY)
    assert report.counts() == {"checked": 18, "expired": 2}
    assert checked([], segments, cut=9 * DAY).counts() == {"expired": 20}


def test_what_may_be_on_its_way() -> None:
    """Behind a gap that is young, a check ends for now, and what is before it can be sealed."""
    entries, report = made(10), Report()
    check = ChainCheck(entries[0].chain, report, young=1000)
    check.take(dropped(entries))
    segment = check.finish()
    assert check.pending
    assert segment is not None
    assert (segment.last, report.count) == (4, 0)
    check = ChainCheck(entries[0].chain, report, young=2000)
    check.take(dropped(entries))
    assert (check.pending, report.count) == (False, 1)


def seals() -> list[Seal]:
    found: list[Seal] = []
    for number in range(1, 4):
        previous = found[-1].root if found else ""
        found.append(Seal(number, number * DAY, f"run {number}", previous, (segment_of(made(3)),)).closed())
    return found


def sealed(found: Sequence[Seal], roots: Sequence[Seal] = ()) -> Report:
    report = Report()
    check = SealCheck(report, {one.number: one.root for one in roots})
    check.take(found)
    check.finish()
    return report


def test_seals() -> None:
    """Seals follow each other; one that is missing, altered or made anew is found, the last one by the roots outside."""
    found = seals()
    assert sealed(found, found).count == 0
    assert sealed([found[0], found[2]]).count == 1
    assert sealed([replace(found[0], at=5), *found[1:]]).count == 1
    assert sealed([replace(found[0], at=5).closed(), *found[1:]]).count == 1
    assert sealed(found[:2]).count == 0
    assert sealed(found[:2], found).count == 1
    forged = replace(found[2], segments=()).closed()
    assert sealed([*found[:2], forged]).count == 0
    assert sealed([*found[:2], forged], found).count == 1


def test_personal_fields() -> None:
    """Every field of a record is either proven as it is or by a commitment."""
    for name in (
        "at",
        "kind",
        "verdict",
        "reason",
        "username",
        "client_id",
        "peer_host",
        "action",
        "topic",
        "rule",
        "detail",
        "source",
    ):
        (entry,) = Chain().seal([Audit(1, "k", "v", "r", "u", "c", "p", "a", "t", "l", "d", "s")])
        other = with_audit(entry, **{name: 2 if name == "at" else "x"})
        assert intact(other) == (name in PERSONAL)
        assert bool(changed_fields(other)) == (name in PERSONAL)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_hashed(text: str) -> None:
    """A hash is SHA-256 over a JSON list, so that others can check a chain too."""
    first, second = Chain().seal([audit(1), Audit(2, text, text, text, action=text, rule=text, source=text)])
    said = [second.chain, 2, first.hash, 2, text, text, text, text, text, text, second.marks]
    assert second.hash == hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()
    assert not intact(with_audit(second, at="2"))
