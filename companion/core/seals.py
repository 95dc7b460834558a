"""Seals over the audit's chains, and the check of all of it. Pure.

A seal covers of every chain the part that has come since the seal before it: a segment. What the retention has removed is known by
the segments, which stay: their records may be missing when they had become old enough, and the seals still prove what is left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from companion.core.chain import Entry, changed_fields, intact, pseudonymous

_SHOWN: Final = 100


class Segment(NamedTuple):
    """The part of a chain that one seal covers: numbers, hashes before it and at its end, times in Unix milliseconds."""

    chain: str
    first: int
    last: int
    size: int
    before: str
    head: str
    first_at: int
    last_at: int


@dataclass(frozen=True, slots=True)
class Seal:
    """A seal. `at` is in Unix milliseconds, `run` the run that made it, `previous` the root of the seal before it."""

    number: int
    at: int
    run: str
    previous: str
    segments: tuple[Segment, ...]
    root: str = ""

    def closed(self) -> Seal:
        """Return it with its root."""
        return Seal(self.number, self.at, self.run, self.previous, self.segments, self.computed_root())

    def computed_root(self) -> str:
        """Return what the root has to be: SHA-256 over a JSON list of all else."""
        content = [self.number, self.at, self.run, self.previous, [list(one) for one in self.segments]]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


class Problem(NamedTuple):
    """What is wrong, and where: a chain and a number in it, or a seal."""

    where: str
    what: str


@dataclass(slots=True)
class Report:
    """What a check has found. `problems` are the first hundred; `count` is how many there are."""

    checked: int = 0
    pseudonymised: int = 0
    expired: int = 0
    unsealed: int = 0
    unchained: int = 0
    count: int = 0
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, where: str, what: str, count: int = 1) -> None:
        """Note a problem."""
        self.count += count
        if len(self.problems) < _SHOWN:
            self.problems.append(Problem(where, what))

    def counts(self) -> Mapping[str, int]:
        """Return the numbers that are not 0, by their names."""
        found = {
            "checked": self.checked,
            "pseudonymised": self.pseudonymised,
            "expired": self.expired,
            "unsealed": self.unsealed,
            "outside of a chain": self.unchained,
            "problems": self.count,
        }
        return {name: value for name, value in found.items() if value}


class ChainCheck:
    """Checks one chain, whose entries come in the order of their numbers.

    `segments` are those of the seals that are to be held against it, in order; `after` is the number, and `before` the hash, behind
    which it begins. What is older than `cut` (Unix milliseconds) may be missing. Where something is missing before an entry that
    is not older than `young`, it may still be on its way: there the check ends, for now.
    """

    def __init__(
        self,
        chain: str,
        report: Report,
        *,
        segments: Sequence[Segment] = (),
        after: int = 0,
        before: str = "",
        cut: int = 0,
        young: int = 2**62,
    ) -> None:
        self.pending = False
        """Whether it has ended at such a place."""
        self._young = young
        self._chain = chain
        self._report = report
        self._segments = segments
        self._heads = {one.last: one.head for one in segments}
        self._sealed = max((one.last for one in segments), default=after)
        self._cut = cut
        self._next = after + 1
        self._hash: str | None = before
        self._first: Entry | None = None
        self._last: Entry | None = None
        self._start = before
        self._count = 0

    def take(self, entries: Iterable[Entry]) -> None:
        """Check the next entries."""
        report = self._report
        for entry in entries:
            self.pending |= entry.number > max(self._next, self._sealed + 1) and entry.audit.at >= self._young
            if self.pending:
                return
            where = f"{self._chain}:{entry.number}"
            if entry.number < self._next:
                report.wrong(where, "there is another entry of this number")
                continue
            if entry.number > self._next:
                self._missing(self._next, entry.number - 1, entry.audit.at)
                self._hash = None
            if not intact(entry):
                report.wrong(where, "it was altered")
            elif self._hash is not None and entry.before != self._hash:
                report.wrong(where, "it does not follow the entry before it")
            elif (head := self._heads.get(entry.number)) is not None and head != entry.hash:
                report.wrong(where, "it is not what was sealed")
            else:
                self._look_at_fields(entry, where)
            if self._first is None:
                self._first, self._start = entry, entry.before
            report.checked += 1
            report.unsealed += entry.number > self._sealed
            self._count += 1
            self._next, self._hash, self._last = entry.number + 1, entry.hash, entry

    def finish(self) -> Segment | None:
        """Return the segment of what has come, or None for nothing; what is sealed and has not come is missing."""
        if self._sealed >= self._next:
            self._missing(self._next, self._sealed, None)
        if self._first is None or self._last is None:
            return None
        first, last = self._first, self._last
        times = (first.audit.at, last.audit.at)
        return Segment(
            self._chain, first.number, last.number, self._count, self._start, last.hash, min(times), max(times)
        )

    def _look_at_fields(self, entry: Entry, where: str) -> None:
        changed = changed_fields(entry)
        if not changed:
            return
        values = {name: getattr(entry.audit, name) for name in changed}
        replaced = [name for name, value in values.items() if pseudonymous(value)]
        # Without the salt nothing can be told of the single fields; what was pseudonymised shows it in one of them.
        if len(replaced) == len(values) or (not entry.salt and replaced):
            self._report.pseudonymised += 1
        else:
            others = ", ".join(name for name in changed if name not in replaced)
            self._report.wrong(where, f"it was altered: {others}")

    def _missing(self, first: int, last: int, then: int | None) -> None:
        """Judge numbers that are not there, by their age: that of their segments, or, unsealed, of what follows them."""
        for one in self._segments:
            low, high = max(first, one.first), min(last, one.last)
            if low > high:
                continue
            if low > first:
                self._judge(first, low - 1, then)
            self._judge(low, high, one.first_at)
            first = high + 1
        if first <= last:
            self._judge(first, last, then)

    def _judge(self, first: int, last: int, at: int | None) -> None:
        count = last - first + 1
        if at is not None and at < self._cut:
            self._report.expired += count
            return
        where = f"{self._chain}:{first}" if count == 1 else f"{self._chain}:{first}-{last}"
        self._report.wrong(where, "it is missing" if count == 1 else f"{count} entries are missing", count)


class SealCheck:
    """Checks the seals themselves, which come in their order, and the roots that were kept elsewhere; remembers the segments."""

    def __init__(self, report: Report, roots: Mapping[int, str]) -> None:
        self.segments: dict[str, list[Segment]] = {}
        self.first: Seal | None = None
        self.last: Seal | None = None
        self._report = report
        self._roots = dict(roots)

    def take(self, seals: Iterable[Seal]) -> None:
        """Check the next seals."""
        for seal in seals:
            where = f"seal {seal.number}"
            expected = 1 if self.last is None else self.last.number + 1
            if seal.number != expected:
                self._report.wrong(f"seal {expected}", "it is missing")
            elif seal.previous != ("" if self.last is None else self.last.root):
                self._report.wrong(where, "it does not follow the seal before it")
            if seal.root != seal.computed_root():
                self._report.wrong(where, "it was altered")
            if self._roots.pop(seal.number, seal.root) != seal.root:
                self._report.wrong(where, "its root is not the one that was kept in the file")
            for one in seal.segments:
                self.segments.setdefault(one.chain, []).append(one)
            self.first, self.last = self.first or seal, seal

    def finish(self) -> None:
        """Tell of roots whose seals are not there."""
        for number in sorted(self._roots):
            self._report.wrong(f"seal {number}", "it is missing, and its root was kept in the file")


def shown_seal(seal: Seal) -> Mapping[str, Any]:
    """Return what is kept of a seal outside of the store."""
    return {"seal": seal.number, "at": seal.at, "root": seal.root, "previous": seal.previous}
