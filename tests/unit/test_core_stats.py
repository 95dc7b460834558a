"""What is counted of a change, and where."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.model import Change, ChangeOp
from companion.core.stats import (
    MOST,
    Bucket,
    Calendar,
    Counting,
    Fact,
    Kind,
    Measure,
    Slot,
    Stat,
    Subject,
    Whom,
    Zones,
    buckets,
    increments,
    key_of,
    place_of,
    stats,
)
from tests.support.entities import change

EVERYBODY = Counting(Whom)
CREATE = frozenset({ChangeOp.CREATE})


def at(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp() * 1000)


def created(**document: Any) -> Change:
    return change("e", op=ChangeOp.CREATE, collection="metrics", after=document)


def amount(measure: Measure, **document: Any) -> int | None:
    """Return what the rule makes of this document."""
    return dict(Counting((), [measure]).fact(created(**document)).amounts).get(f"THING_{measure.kind}__CREATE_METRICS")


@pytest.mark.parametrize("op", ChangeOp)
def test_every_verb_has_its_key(op: ChangeOp) -> None:
    """Database, verb and collection in capitals; a dash is no part of a key."""
    assert key_of(Kind.COUNT, change("e", op=op, db="essential", collection="saga-stages")) == (
        f"ESSENTIAL_COUNT__{op.value.upper()}_SAGA_STAGES"
    )


@pytest.mark.parametrize(
    ("op", "actor"),
    [
        (ChangeOp.CREATE, ["c"]),
        (ChangeOp.UPDATE, ["u"]),
        (ChangeOp.DELETE, ["d"]),
        (ChangeOp.RESTORE, ["r"]),
        (ChangeOp.DESTROY, []),
    ],
)
def test_who_did_it(op: ChangeOp, actor: list[str]) -> None:
    """The actor is whom the entity names for this verb; a destruction names nobody."""
    document = {"owner": "o", "created_by": "c", "updated_by": "u", "deleted_by": "d", "restored_by": "r"}
    fact = EVERYBODY.fact(change("e", op=op, after=document))
    assert fact.subjects == (Subject("o"), *(Subject(name, "actor") for name in actor))


def test_whom_it_is_counted_for() -> None:
    """For the owner, and as far as the settings say for actor, clients and groups, each once, each under its flag."""
    one = created(owner="o", created_by="o", clients=["c1", "c2", "c1"], groups=["example.org"])
    everybody = (
        Subject("o"),
        Subject("o", "actor"),
        Subject("c1", "client"),
        Subject("c2", "client"),
        Subject("example.org", "group"),
    )
    assert EVERYBODY.fact(one).subjects == everybody
    assert Counting().fact(one).subjects == everybody[:1]
    assert Counting([Whom.GROUP]).fact(one).subjects == (everybody[0], everybody[4])


@pytest.mark.parametrize("owner", [None, "", 5, {"a": 1}, [], True])
def test_of_nobody(owner: object) -> None:
    """Without an owner that is a name, a change is counted for nobody; fields of another kind than expected name nobody."""
    fact = EVERYBODY.fact(created(owner=owner, created_by=5, clients="", groups=[1, None, {}]))
    assert fact == Fact(1000, (Subject(""),), (("THING_COUNT__CREATE_METRICS", 1),))


def test_by_which_state() -> None:
    """By the state after the change; by the one before where the other is not known; without both still once."""
    both = change("e", before={"owner": "a"}, after={"owner": "b"})
    assert Counting().fact(both).subjects == (Subject("b"),)
    assert Counting().fact(change("e", before={"owner": "a"})).subjects == (Subject("a"),)
    assert Counting().fact(change("e", before={"owner": "a"}, after={})).subjects == (Subject(""),)
    assert Counting().fact(change("e")).subjects == (Subject(""),)


@pytest.mark.parametrize(
    ("value", "scale", "wanted"),
    [
        (5, 1, 5),
        (-5, 10, -50),
        (0.1, 10, 1),
        (21.57, 100, 2157),
        (2.5, 1, 2),
        ("12.345", 1000, 12345),
        ([1, 2.5, "3"], 10, 65),
        ([], 1, None),
        (0, 1, None),
        (True, 1, None),
        (None, 1, None),
        ("high", 1, None),
        ({"deep": 1}, 1, None),
        ([[1]], 1, None),
        (float("nan"), 1, None),
        (float("inf"), 1, None),
        ("1e999999", 1, None),
        ("1e999999", 10, None),
        ("1e-999999", 1, None),
        ("9" * 5000, 1, None),
        pytest.param(10**5000, 1, None, id="endless"),
        (MOST, 1, MOST),
        (MOST + 1, 1, None),
        (10**400, 1, None),
    ],
)
def test_sums(value: object, scale: int, wanted: int | None) -> None:
    """Numbers, lists of them and decimals as text are added in whole units; what is none, or beyond all measure, is not."""
    assert amount(Measure(Kind.SUM, "thing", "metrics", CREATE, "value", scale), value=value) == wanted


@pytest.mark.parametrize(
    ("field", "wanted"),
    [("name", 5), ("deep.list", 7), ("deep.none", None), ("nothing", None), ("name.deeper", None), ("", 52)],
)
def test_sizes(field: str, wanted: int | None) -> None:
    """Bytes of text as it is, of everything else and of the whole document as JSON; of nothing, nothing."""
    document = {"name": "néab", "deep": {"list": [1, "a"], "none": None}}
    assert amount(Measure(Kind.SIZE, "thing", "metrics", CREATE, field), **document) == wanted


def test_rules_are_for_their_collection_and_verbs() -> None:
    """A rule is for one collection and some verbs; a name ends its key."""
    rule = Measure(Kind.SUM, "thing", "metrics", frozenset({ChangeOp.DELETE}), "value", 1, "watt-hours")
    counting = Counting((), [rule, Measure(Kind.SIZE, "thing", "metrics", frozenset({ChangeOp.DELETE}), "value")])

    def keys(**fields: Any) -> list[str]:
        return [key for key, _ in counting.fact(change("e", after={"value": 12}, **fields)).amounts]

    assert keys(op=ChangeOp.DELETE, collection="metrics") == [
        "THING_COUNT__DELETE_METRICS",
        "THING_SUM__DELETE_METRICS_WATT_HOURS",
        "THING_SIZE__DELETE_METRICS",
    ]
    assert keys(op=ChangeOp.CREATE, collection="metrics") == ["THING_COUNT__CREATE_METRICS"]
    assert keys(op=ChangeOp.DELETE, collection="sensors") == ["THING_COUNT__DELETE_SENSORS"]
    assert keys(op=ChangeOp.DELETE, collection="metrics", db="other") == ["OTHER_COUNT__DELETE_METRICS"]


def hours(moments: list[str], zone: str) -> Counter[tuple[int, int, int, int]]:
    """Return in which hours of this zone something that happened then is counted."""
    facts = [Fact(at(moment), (Subject("o"),), (("K", 1),)) for moment in moments]
    found = increments(facts, Zones("UTC", {"o": zone}))
    return Counter({slot[3:]: amount for slot, amount in found.items()})


def test_everybody_has_a_time_zone() -> None:
    """The same moment lies in another day, month and year for another owner."""
    fact = Fact(at("2026-12-31T23:30:00Z"), (Subject("a"), Subject("b"), Subject("b", "client")), (("K", 2),))
    assert increments([fact, fact], Zones("UTC", {"b": "Asia/Tokyo"})) == {
        Slot("a", "K", "", 2026, 12, 31, 23): 4,
        Slot("b", "K", "", 2027, 1, 1, 8): 4,
        Slot("b", "K", "client", 2027, 1, 1, 8): 4,
    }


def test_a_day_of_23_hours() -> None:
    """Where clocks go forward, the hour that is left out stays empty, and the day is the calendar's."""
    moments = [f"2026-03-29T{hour:02}:30:00Z" for hour in range(-1 + 1, 22)] + ["2026-03-28T23:30:00Z"]
    found = hours(moments, "Europe/Berlin")
    assert [found[2026, 3, 29, hour] for hour in range(24)] == [1, 1, 0, *([1] * 21)]


def test_a_day_of_25_hours() -> None:
    """Where clocks go back, the hour that comes twice holds both."""
    moments = [f"2026-10-25T{hour:02}:30:00Z" for hour in range(23)] + [
        f"2026-10-24T{hour}:30:00Z" for hour in (22, 23)
    ]
    found = hours(moments, "Europe/Berlin")
    assert [found[2026, 10, 25, hour] for hour in range(24)] == [1, 1, 2, *([1] * 21)]
    assert found.total() == 25


@pytest.mark.parametrize("moment", [0, -(2**63), 2**63 - 1, -1])
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_any_time_is_in_some_bucket(moment: int, zone: str) -> None:
    """Times that no calendar holds are counted at its ends, so that no total misses them."""
    (slot,) = increments([Fact(moment, (Subject("o"),), (("K", 1),))], Zones(zone))
    assert 1 <= slot.year <= 9999


SLOTS = st.builds(
    lambda owner, key, moment: Slot(owner, key, "", moment.year, moment.month, moment.day, moment.hour),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["K", "L"]),
    st.integers(0, 90 * 24).map(lambda hour: dt.datetime(2025, 12, 1, tzinfo=dt.UTC) + dt.timedelta(hours=hour)),
)


@given(st.dictionaries(SLOTS, st.integers(-100, 100)))
def test_every_calendar_has_the_same_total(added: dict[Slot, int]) -> None:
    """Whatever is added stands once in each calendar, in the record and at the place of its hour."""
    found = buckets(added)
    for calendar in Calendar:
        records = {stat.bucket: stat.values for stat in stats(added, calendar)}
        assert sum(map(sum, records.values())) == sum(added.values())
        wanted: Counter[tuple[Bucket, int]] = Counter()
        for slot, amount_there in added.items():
            wanted[place_of(slot, calendar)] += amount_there
        assert {(bucket, place): records[bucket][place] for bucket, place in wanted} == wanted
        assert {bucket for bucket in found if bucket.calendar is calendar} == set(records)
        assert all(len(values) == bucket.size for bucket, values in records.items())


def test_records_in_order() -> None:
    """Records come by key, flag and time."""
    slots = [Slot("o", key, flag, year, 1, 1, 0) for year in (2027, 2026) for flag in ("x", "") for key in ("L", "K")]
    found = stats(dict.fromkeys(slots, 1), Calendar.YEARLY)
    assert [(one.bucket.key, one.bucket.flag, one.bucket.year) for one in found] == [
        (key, flag, year) for key in ("K", "L") for flag in ("", "x") for year in (2026, 2027)
    ]
    assert found[0] == Stat(Bucket(Calendar.YEARLY, "o", "K", "", 2026), (1,) + (0,) * 11)
