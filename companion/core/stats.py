"""Statistics: from a change to what is counted, and in which buckets it is kept. Pure.

    change ──Counting──▶ fact: when, for whom, how much of what ──slots──▶ hours of somebody's calendar ──▶ buckets

A key is `{SERVICE}_{COUNT|SUM|SIZE}__{VERB}_{COLLECTION}`, such as `THING_COUNT__CREATE_METRICS`: the database and the collection
in capitals, a `-` as `_`. A change is counted for its owner; by the settings also for who did it, for every client and for every
group. These have statistics of their own: the `owner` of the statistic is whom it is about, and its `flag` says as what (`actor`,
`client`, `group`; the owner's have none). A change of nobody's is counted for the owner "".

The hour is that of the change's own time, however late it comes, in the time zone of whom it is counted for. Where clocks change,
the hour that is left out stays empty, and the hour that comes twice holds both; the sums of days, months and years are those of
the calendar there.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from companion.core.model import Change, ChangeOp, Document

MOST: Final = 10**12
"""A value beyond this is not added: whatever it is, a few of them would fill the 64 bits of a counter for good."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# A day inside what a date can hold, so that a time zone does not lead out of it.
_FIRST: Final = int((dt.datetime(1, 1, 2, tzinfo=dt.UTC) - _EPOCH).total_seconds()) * 1000
_LAST: Final = int((dt.datetime(9999, 12, 30, tzinfo=dt.UTC) - _EPOCH).total_seconds()) * 1000

_BY: Final[Mapping[ChangeOp, str]] = {
    ChangeOp.CREATE: "created_by",
    ChangeOp.UPDATE: "updated_by",
    ChangeOp.DELETE: "deleted_by",
    ChangeOp.RESTORE: "restored_by",
}
"""Who did it; of what was destroyed nobody can tell."""


class Whom(StrEnum):
    """As what somebody is counted for, beside being the owner; the values are flags."""

    ACTOR = "actor"
    CLIENT = "client"
    GROUP = "group"


class Kind(StrEnum):
    """What a key counts."""

    COUNT = "COUNT"
    SUM = "SUM"
    SIZE = "SIZE"


class Calendar(StrEnum):
    """What a bucket spans: a day with 24 hours, a month with 31 days, a year with 12 months."""

    DAILY = "DAILY"
    MONTHLY = "MONTHLY"
    YEARLY = "YEARLY"


@dataclass(frozen=True, slots=True)
class Measure:
    """A rule: sum a field, or the size of a field or (without one) of the whole document in bytes of JSON.

    Sums are whole numbers, so that they are exact in whatever order they are added: a value is taken `scale` times and rounded.
    """

    kind: Kind
    db: str
    collection: str
    ops: frozenset[ChangeOp]
    field: str = ""
    scale: int = 1
    name: str = ""
    """What the key ends with, where one collection has several rules of a kind."""


class Subject(NamedTuple):
    """Whom a change is counted for, and as what."""

    owner: str
    flag: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """All that is counted of a change: each amount for each subject, at its time (Unix milliseconds)."""

    at: int
    subjects: tuple[Subject, ...]
    amounts: tuple[tuple[str, int], ...]


class Slot(NamedTuple):
    """An hour of a key of somebody."""

    owner: str
    key: str
    flag: str
    year: int
    month: int
    day: int
    hour: int


Increments = Mapping[Slot, int]


class Bucket(NamedTuple):
    """What one record of the platform's schema stands for; `month` and `day` are 0 where they mean nothing."""

    calendar: Calendar
    owner: str
    key: str
    flag: str
    year: int
    month: int = 0
    day: int = 0

    @property
    def size(self) -> int:
        """How many values it has."""
        return {Calendar.DAILY: 24, Calendar.MONTHLY: 31, Calendar.YEARLY: 12}[self.calendar]


@dataclass(frozen=True, slots=True)
class Stat:
    """A record: the values of a bucket."""

    bucket: Bucket
    values: tuple[int, ...]


def key_of(kind: Kind, change: Change, name: str = "") -> str:
    """Return the key under which this of the change is counted."""
    key = f"{change.db}_{kind}__{change.op}_{change.collection}{'_' if name else ''}{name}"
    return key.upper().replace("-", "_")


class Counting:
    """The rules, ready to count."""

    def __init__(
        self,
        whom: Iterable[Whom] = (),
        measures: Iterable[Measure] = (),
        *,
        decisions: bool = False,
        events: bool = False,
    ) -> None:
        self.decisions = decisions
        """Whether decisions are counted too (`companion.core.stats_decisions`)."""
        self.events = events
        """Whether the broker's events are counted too (`companion.core.stats_events`)."""
        self._whom = frozenset(whom)
        self._measures: dict[tuple[str, str], list[Measure]] = {}
        for measure in measures:
            self._measures.setdefault((measure.db, measure.collection), []).append(measure)

    def fact(self, change: Change) -> Fact:
        """Return what is counted of this change: by its state after, or, where that is not known, by the one before."""
        document = change.after if change.after is not None else change.before or {}
        amounts = [(key_of(Kind.COUNT, change), 1)]
        for measure in self._measures.get((change.db, change.collection), ()):
            if change.op in measure.ops:
                amount = _measured(measure, document)
                if amount:
                    amounts.append((key_of(measure.kind, change, measure.name), amount))
        return Fact(change.at, tuple(dict.fromkeys(self._subjects(change.op, document))), tuple(amounts))

    def _subjects(self, op: ChangeOp, document: Document) -> Iterator[Subject]:
        yield Subject(next(_texts(document.get("owner")), ""))
        if Whom.ACTOR in self._whom and op in _BY:
            yield from (Subject(name, Whom.ACTOR) for name in _texts(document.get(_BY[op])))
        for whom, field in ((Whom.CLIENT, "clients"), (Whom.GROUP, "groups")):
            if whom in self._whom:
                yield from (Subject(name, whom) for name in _texts(document.get(field)))


class Zones:
    """The time zone of everybody."""

    def __init__(self, default: str = "UTC", of: Mapping[str, str] | None = None) -> None:
        self._default = ZoneInfo(default)
        self._of = {owner: ZoneInfo(name) for owner, name in (of or {}).items()}

    def of(self, owner: str) -> ZoneInfo:
        """Return the time zone of this owner."""
        return self._of.get(owner, self._default)

    def local(self, at: int, owner: str) -> dt.datetime:
        """Return the moment there; times that no calendar holds are those at its end."""
        moment = _EPOCH + dt.timedelta(milliseconds=min(max(at, _FIRST), _LAST))
        return moment.astimezone(self.of(owner))


def increments(facts: Iterable[Fact], zones: Zones) -> Increments:
    """Return what these facts add, and where."""
    found: Counter[Slot] = Counter()
    for fact in facts:
        for owner, flag in fact.subjects:
            there = zones.local(fact.at, owner)
            for key, amount in fact.amounts:
                found[Slot(owner, key, flag, there.year, there.month, there.day, there.hour)] += amount
    return found


def place_of(slot: Slot, calendar: Calendar) -> tuple[Bucket, int]:
    """Return the bucket of this calendar in which the slot lies, and where in it (from 0)."""
    owner, key, flag, year, month, day, hour = slot
    if calendar is Calendar.DAILY:
        return Bucket(calendar, owner, key, flag, year, month, day), hour
    if calendar is Calendar.MONTHLY:
        return Bucket(calendar, owner, key, flag, year, month), day - 1
    return Bucket(calendar, owner, key, flag, year), month - 1


def buckets(added: Increments) -> Mapping[Bucket, Mapping[int, int]]:
    """Return what is to be added to every bucket of every calendar, by where in it."""
    found: dict[Bucket, Counter[int]] = {}
    for slot, amount in added.items():
        for calendar in Calendar:
            bucket, index = place_of(slot, calendar)
            found.setdefault(bucket, Counter())[index] += amount
    return found


def stats(added: Increments, calendar: Calendar) -> Sequence[Stat]:
    """Return the records that these hours make, in the order of key, flag and time."""
    found = {bucket: values for bucket, values in buckets(added).items() if bucket.calendar is calendar}
    return [Stat(one, tuple(found[one].get(index, 0) for index in range(one.size))) for one in sorted(found)]


def _texts(value: object) -> Iterator[str]:
    """Yield the names in a field that holds one or a list; what is no name is passed over."""
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, str) and one:
            yield one


def _measured(measure: Measure, document: Document) -> int:
    value: Any = document
    for part in measure.field.split(".") if measure.field else ():
        value = value.get(part) if isinstance(value, Mapping) else None
    if measure.kind is Kind.SIZE:
        return _size(value)
    return sum(_units(one, measure.scale) for one in (value if isinstance(value, list | tuple) else (value,)))


def _size(value: Any) -> int:  # noqa: ANN401 - any JSON value
    if value is None:
        return 0
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode(errors="replace"))


def _units(value: object, scale: int) -> int:
    """Return a number (also as text, as decimals come) in whole units; 0 for what is none, or is beyond all measure."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        exact = Decimal(str(value)) * scale
        if not exact.is_finite() or abs(exact) > MOST:
            return 0
        return int(exact.to_integral_value(ROUND_HALF_EVEN))
    except (ArithmeticError, ValueError):
        return 0
