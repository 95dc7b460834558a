"""Ports: what the services need of a store, as Protocols that list only the calls in use.

Every call may raise `Transient` (the store is away; try again) or `Permanent` (it will never work); no driver's own error
passes. Every adapter runs the suites in `tests/contracts/`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from companion.core.model import (
    Account,
    Audit,
    Change,
    Document,
    Drift,
    Incident,
    Lookup,
    Notice,
    Rebuild,
    Session,
)
from companion.core.rules import Rule
from companion.core.runs import Progress, Run, RunState
from companion.core.stats import Calendar, Counting, Fact, Increments, Stat


class Accounts(Protocol):
    """People, devices and services that connect with a user name and a password."""

    async def get(self, username: str) -> Account | None:
        """Return the account, also a disabled or expired one; None when there is none."""
        ...

    async def add(self, accounts: Sequence[Account]) -> None:
        """Add all of them or none. Raises `Invalid` naming the first user name that exists already."""
        ...

    async def set_password(self, username: str, password_hash: str) -> bool:
        """Replace the hash; False when there is no such account."""
        ...

    async def set_disabled(self, username: str, *, disabled: bool) -> bool:
        """Disable or enable; False when there is no such account."""
        ...

    async def list(self, *, after: str = "", limit: int = 1000) -> Sequence[Account]:
        """Return up to `limit` accounts in the order of their user names, those behind `after`."""
        ...


class Rules(Protocol):
    """Stored rules."""

    async def add(self, rule: Rule) -> Rule:
        """Store the rule and return it with its id. Raises `Invalid` for a rule that cannot be enforced."""
        ...

    async def remove(self, rule_id: str) -> bool:
        """Remove; False when there is no such rule."""
        ...

    async def of(self, subjects: Sequence[str]) -> Sequence[Rule]:
        """Return the rules of these subjects, oldest first."""
        ...

    async def list(self) -> Sequence[Rule]:
        """Return every rule, oldest first."""
        ...


class Sessions(Protocol):
    """Platform sessions that logged in with an access token, so that any replica can authorize them later."""

    async def put(self, session: Session) -> None:
        """Store it, in place of an earlier one of the same user name and client id."""
        ...

    async def get(self, username: str, client_id: str) -> Session | None:
        """Return the session, also an expired one; None when there is none."""
        ...

    async def remove(self, username: str, client_id: str) -> None:
        """Forget it; no error when there is none."""
        ...

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` sessions that expired before `before` (Unix seconds); return how many. `dry` only counts them."""
        ...


class Notices(Protocol):
    """Word of what changed, from whichever process changed it, so that caches let go of it."""

    async def announce(self, notice: Notice) -> None:
        """Tell every follower, in this process and in others; those who are away for a while get it when they are back."""
        ...

    def follow(self) -> AsyncIterator[Sequence[Notice]]:
        """Yield for ever what changed, soon after it did.

        The first item is empty and comes once we are listening: what changes after it is told. A store that is away is waited for
        inside; when it cannot be shown that nothing was missed, EVERYTHING is told. Telling too much is right, too little is not.
        Close the iterator (`contextlib.aclosing`) to stop.
        """
        ...


class Counters(Protocol):
    """Counts of what happens too often, shared by every process where the store is shared."""

    async def add(self, key: str, seconds: float) -> int:
        """Count one more and return the count; the first of a count begins a window, with whose end the count is forgotten."""
        ...


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to be the only one. `token` fences writes: every later lease of this name, by whomever, has a higher one."""

    name: str
    holder: str
    token: int


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else holds the lease, for at most this many seconds more if it is not renewed."""

    holder: str
    seconds: float


class Leases(Protocol):
    """Who does what only one may do. Times are measured by the store's clock."""

    async def acquire(self, name: str, holder: str, seconds: float) -> Lease | Held:
        """Take the lease for `seconds` if it is free or has run out; a holder that has it already gets a new one.

        Every lease has a higher token than the one before.
        """
        ...

    async def renew(self, lease: Lease, seconds: float) -> bool:
        """Extend it to `seconds` from now, under the same token; False when it is not ours any more (it ran out, or was taken)."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give it back so that the next need not wait; no error when it is not ours any more."""
        ...


@dataclass(frozen=True, slots=True)
class Received:
    """A change in the inbox with its position; positions grow by at least one and are never used again."""

    position: int
    change: Change


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a batch: how many changes are new, and how many were known by their event id."""

    accepted: int
    duplicates: int


class Inbox(Protocol):
    """Changes taken over from others, kept durably until they are published."""

    async def append(self, changes: Sequence[Change]) -> Taken:
        """Store all of them or none, in order, each event id once; durable (fsync) when this returns."""
        ...

    async def read(self, after: int, limit: int) -> Sequence[Received]:
        """Return up to `limit` changes behind the position `after`, in order, that are neither acknowledged nor dead."""
        ...

    async def acknowledge(self, acknowledged: Sequence[tuple[int, int]]) -> None:
        """Note for each (position, Unix milliseconds) that every message of the change was acknowledged, and when."""
        ...

    async def bury(self, position: int, reason: str) -> None:
        """Mark the change at `position` as dead: it could not be published, is kept, and says why."""
        ...

    async def dead(self, *, limit: int = 1000) -> Sequence[tuple[Received, str]]:
        """Return up to `limit` dead changes with their reasons, oldest first."""
        ...

    async def backlog(self, after: int) -> int:
        """Return how many changes behind the position `after` are neither acknowledged nor dead."""
        ...

    async def prune(self, *, through: int, before: int, limit: int, dry: bool = False) -> int:
        """Remove up to `limit` changes at or before position `through` that were taken before `before` (Unix milliseconds).

        Dead changes stay. Returns how many were removed; their event ids are forgotten with them. `dry` only counts them.
        """
        ...


class Checkpoints(Protocol):
    """How far a reader of changes has come: everything up to the position is acknowledged. Only its source understands it.

    `fence` is the token of the lease under which the reader works; the highest one seen for a name is the only one that may write.
    """

    async def load(self, name: str) -> str | None:
        """Return the position; None when nothing was saved."""
        ...

    async def claim(self, name: str, fence: int) -> str | None:
        """Return the position, and refuse lower fences from now on. Raises `Fenced` when a higher one has claimed it."""
        ...

    async def save(self, name: str, position: str, fence: int) -> None:
        """Store the position durably. Raises `Fenced` when a higher fence has claimed or saved it; then nothing is stored."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """What a source yields: a change with its position; without a change, only the news that the source has come this far."""

    position: str
    change: Change | None


class Source(Protocol):
    """Where changes come from. It belongs to one reader, who holds its lease.

    The order of calls is `open`, then `read` again and again, `acknowledge`, `save` and `bury` beside it, then `close`; after
    `close` it can be opened again.
    """

    @property
    def name(self) -> str:
        """The name of its checkpoint and of its series in the metrics: lower-case letters."""
        ...

    @property
    def incidents(self) -> Mapping[Incident, int]:
        """How often each has happened since the process began; those that never did may be missing."""
        ...

    async def open(self, fence: int) -> None:
        """Claim the checkpoint and go there. Raises `Fenced` when a later reader has claimed it."""
        ...

    async def read(self, limit: int) -> Sequence[Item]:
        """Return up to `limit` items behind those already read; with nothing new, wait (at most a second) and return none."""
        ...

    async def acknowledge(self, acknowledged: Sequence[tuple[str, int]]) -> None:
        """Note for each (position, Unix milliseconds) that every message of its change was acknowledged, and when."""
        ...

    async def save(self, position: str) -> None:
        """Store durably that everything up to `position` is done. Raises `Fenced` when a later reader has claimed it."""
        ...

    async def bury(self, item: Item, reason: str) -> None:
        """Record durably that this change could not be published, and why."""
        ...

    async def backlog(self) -> int | None:
        """Return how many changes wait behind the saved position; None when the source cannot tell."""
        ...

    async def close(self) -> None:
        """Let go of what reading holds; no error when it is closed."""
        ...


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of an entity as JSON. `version` grows with every change of it; `document` is None once the entity is gone.

    `keys` are (name, value) pairs by which it is found beside its id, such as ("username", "alice").
    """

    id: str
    version: int
    document: Document | None
    keys: tuple[tuple[str, str], ...] = ()


class Mirror(Protocol):
    """Copies of entities that are read often, each collection for itself. It has one writer, whose lease's token is the `fence`.

    What is read is never older than the writer says (`serve`); nothing is read when the writer has been silent for too long.
    Every writing call raises `Fenced` when a later writer has been here, and then changes nothing.
    """

    async def put(
        self,
        collection: str,
        copies: Sequence[Copy],
        fence: int,
        generation: int | None = None,
        *,
        number: int | None = None,
    ) -> int:
        """Take over those that are newer than what stands here, also that one is gone; return how many were.

        Without a `generation` into the one that is read. `number` counts the calls for a generation from 1: raises `Forgotten`, and
        changes nothing, when the one before it is not here any more.
        """
        ...

    async def get(self, collection: str, entity_id: str) -> Copy | None:
        """Return the copy; None when there is none, which does not mean that there is no such entity."""
        ...

    async def find(self, collection: str, key: str, value: str) -> Sequence[Copy] | None:
        """Return the copies with this key, in the order of their ids; None when nothing may be read."""
        ...

    async def clock(self, collection: str) -> int:
        """Return the time by which `serve` counts, in milliseconds."""
        ...

    async def serve(
        self, collection: str, seconds: float, fence: int, *, since: int | None = None, number: int | None = None
    ) -> None:
        """Let the copies be read for so long from now on, or from `since` on by the clock of the mirror.

        Raises `Forgotten` when the put of this `number` is not in what is read; then nothing is read.
        """
        ...

    async def digest(self, collection: str, after: str, through: str | None) -> str:
        """Return one digest of all copies with an id behind `after` up to `through` (None: to the end), in UTF-8 order."""
        ...

    async def digests(self, collection: str, after: str, through: str | None) -> Mapping[str, str]:
        """Return the digest of each of these copies by its id (`digest_of`)."""
        ...

    async def begin(self, collection: str, fence: int) -> int:
        """Begin a new generation, empty and not read yet, and return its number."""
        ...

    async def promote(self, collection: str, generation: int, fence: int) -> None:
        """Let this generation be the one that is read, at once and as a whole."""
        ...

    async def sweep(self, collection: str, limit: int, fence: int) -> int:
        """Remove up to `limit` copies of generations that are older than the one that is read; return how many were."""
        ...


class Onlooker(Protocol):
    """Is told what whoever keeps the mirror does."""

    def rebuilding(self, collection: str, why: Rebuild) -> None:
        """Hear that a collection is to be copied anew."""
        ...

    def taken(self, collection: str, copies: int) -> None:
        """Hear that so many changes were written into the mirror."""
        ...

    def served(self, collection: str, seconds: float) -> None:
        """Hear that the copies may be read: they are those of so many seconds ago, or newer."""
        ...


@dataclass(frozen=True, slots=True)
class Compared:
    """One range of a mirrored collection: where it ends (None: nothing is behind it), and what differed.

    `silent` is whether nobody could be told: the collection is not mirrored as a whole at present, and nothing was compared.
    """

    through: str | None
    checked: int
    drift: Mapping[Drift, int]
    silent: bool = False


class Watcher(Protocol):
    """Keeps the mirror as the store is: one follows what changes, under a lease; anybody may compare."""

    @property
    def collections(self) -> Sequence[str]:
        """The names of what is mirrored; none where nothing is."""
        ...

    async def follow(self, fence: int, onlooker: Onlooker) -> None:
        """Keep the mirror, building anew what has to be; never returns. Raises `Fenced` when a later one has begun to."""
        ...

    async def compare(self, collection: str, after: str, limit: int, *, repair: bool) -> Compared:
        """Compare up to `limit` entities behind `after`, in the mirror's order, and make good what differs.

        What is on its way to the mirror is waited for, and is no difference. Raises `Transient` when nobody follows.
        """
        ...

    async def ask_for_rebuild(self) -> str:
        """Ask whoever follows to build everything anew; return what `rebuilt` wants to know."""
        ...

    async def rebuilt(self, asked: str) -> bool:
        """Tell whether that was done."""
        ...


class Audits(Protocol):
    """Decisions worth keeping."""

    async def append(self, records: Sequence[Audit]) -> None:
        """Store them, in order."""
        ...

    async def latest(self, limit: int) -> Sequence[Audit]:
        """Return the newest records, newest first."""
        ...

    async def prune(self, before: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` records older than `before` (Unix milliseconds); return how many. `dry` only counts them."""
        ...

    async def trim(self, keep: int, limit: int, *, dry: bool = False) -> int:
        """Remove up to `limit` of the oldest records beyond the newest `keep`; return how many. `dry` only counts them."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Which documents of a collection are due: those that fit `query` and whose field `time` is before `before`.

    `before` is in Unix milliseconds. What fits `hold` is never due, whatever else. Queries are MongoDB's; other stores
    understand equality and `$in`.
    """

    time: str
    before: int
    query: Document = field(default_factory=dict)
    hold: Document = field(default_factory=dict)


class Stored(NamedTuple):
    """A document as it is stored: its id as text that only its store understands, and itself as one line of extended JSON.

    A tuple, for they are made by the hundred thousand.
    """

    id: str
    line: bytes


@dataclass(frozen=True, slots=True)
class Removed:
    """How many documents were removed, and how many are still there because they have changed."""

    count: int
    changed: int = 0


class Documents(Protocol):
    """Collections of any kind (`database.collection`), for jobs that go through them. Every removal bears the lease of its job."""

    async def check(self, collection: str, selection: Selection) -> None:
        """Raise `Invalid` for a collection that there cannot be, or for a selection that this store cannot follow."""
        ...

    async def count(self, collection: str) -> int:
        """Return about how many there are."""
        ...

    async def count_due(self, collection: str, selection: Selection) -> int:
        """Return how many are due."""
        ...

    async def due(
        self, collection: str, selection: Selection, after: str, limit: int, *, lines: bool = True
    ) -> Sequence[Stored]:
        """Return up to `limit` that are due, behind the id `after`, in the order of their ids, about that of their making.

        Without `lines` their lines are empty.
        """
        ...

    def read(self, collection: str, lines: Sequence[bytes]) -> Sequence[Stored]:
        """Return the documents of these lines with their ids. Raises `Invalid` for a line that is no document."""
        ...

    async def remove(
        self, collection: str, selection: Selection, stored: Sequence[Stored], lease: Lease, *, unchanged: bool
    ) -> Removed:
        """Remove of these those that are still due and, if `unchanged`, still what they were.

        Raises `Fenced` when a later lease of the same name has been here; then nothing is removed.
        """
        ...

    async def restore(self, collection: str, lines: Sequence[bytes]) -> int:
        """Put back those that are not there; return how many were. Raises `Invalid` for a line that is no document."""
        ...


class Runs(Protocol):
    """Records of runs of jobs. Every call that changes a running one bears its fence."""

    async def add(self, run: Run) -> bool:
        """Store a new one; False, and nothing is changed, when there is one of this id: nobody asks twice for the same tick."""
        ...

    async def get(self, run_id: str) -> Run | None:
        """Return the run; None when there is none."""
        ...

    async def list(
        self, *, jobs: Collection[str] | None = None, states: Collection[RunState] | None = None, limit: int = 100
    ) -> Sequence[Run]:
        """Return up to `limit` of these jobs and states (None: all), those requested last first."""
        ...

    async def waiting(self, jobs: Collection[str], now: int, limit: int = 100) -> Sequence[Run]:
        """Return up to `limit` waiting ones that are due: by priority, the highest first, then by the time that they were due."""
        ...

    async def begin(self, run_id: str, holder: str, fence: int, now: int) -> Run | None:
        """Let a waiting or running one run under this fence; None when it has ended. Raises `Fenced` below its fence."""
        ...

    async def advance(self, run_id: str, fence: int, progress: Progress, batches: int, now: int) -> bool:
        """Note how far it has come; return whether it was asked to end. Raises `Fenced` when it is not ours any more."""
        ...

    async def end(self, run_id: str, fence: int, state: RunState, error: str, now: int) -> None:
        """Note how it ended, or with WAITING that it goes on later, in another life. Raises `Fenced`, as above."""
        ...

    async def cancel(self, run_id: str, now: int) -> Run | None:
        """End a waiting one, and ask a running one to end; return it as it then is, None when there is none."""
        ...

    async def prune(self, *, keep: int, before: int, limit: int, dry: bool = False) -> int:
        """Remove up to `limit` ended ones that ended before `before`, but of each job not its `keep` newest; return how many.

        `dry` only counts them.
        """
        ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What is to be counted, with its position; without a fact, only the news that its reader has come this far."""

    position: str
    fact: Fact | None


class Observed(Protocol):
    """Where changes come from to be counted. It belongs to one observer, who keeps the position with the counters.

    The order of calls is `open`, then `read` again and again, then `close`; after `close` it can be opened again.
    """

    @property
    def name(self) -> str:
        """The name of its position, and a label of metrics."""
        ...

    @property
    def lost(self) -> int:
        """How many changes could not be seen or read since the process began, as far as anybody can tell."""
        ...

    async def open(self, position: str | None) -> str | None:
        """Go behind this position; return the one to be kept before anything is read, where it has to be another."""
        ...

    async def read(self, limit: int) -> Sequence[Seen]:
        """Return up to `limit` behind those already read; with nothing new, wait (at most a second) and return none."""
        ...

    async def settled(self, position: str) -> None:
        """Note that all up to this position is counted for good: what was kept only to be counted may go."""
        ...

    async def close(self) -> None:
        """Let go of what reading holds; no error when it is closed."""
        ...


class Statistics(Protocol):
    """Counters, and how far each reader of changes has come: they move together, or not at all.

    There is one observer, whose lease's token is the `fence`. It numbers its steps from 1 after `claim`. After `Transient` nobody
    knows whether a step was made: the same call is repeated, and a step that was made already is not made twice. Any call raises
    `Fenced` when a later observer has been here, or when the store has gone back behind what it acknowledged; only another claim,
    under a new lease, goes on.
    """

    async def claim(self, fence: int) -> Mapping[str, str]:
        """Begin, and return the position of every reader. Raises `Fenced` unless the fence is higher than all before it."""
        ...

    async def apply(self, fence: int, step: int, reader: str, position: str, added: Increments) -> int:
        """Add to the counters and move the reader there; return how many counters wait to be flushed."""
        ...

    async def flush(self, fence: int, step: int) -> int:
        """Bring what was counted to where it is read; return how many counters that were."""
        ...

    async def positions(self) -> Mapping[str, str]:
        """Return how far each reader has come of what cannot get lost any more."""
        ...

    async def read(
        self,
        owner: str,
        calendar: Calendar,
        first: dt.date,
        last: dt.date,
        *,
        key: str | None = None,
        flag: str | None = None,
    ) -> Sequence[Stat]:
        """Return the records that touch these days, flushed ones, in the order of key, flag and time.

        Of every key and flag where none is given; the flag "" is the owner's own.
        """
        ...


class Store(Protocol):
    """One profile's adapters, opened and closed together."""

    @property
    def accounts(self) -> Accounts:
        """Accounts."""
        ...

    @property
    def rules(self) -> Rules:
        """Rules."""
        ...

    @property
    def sessions(self) -> Sessions:
        """Platform sessions."""
        ...

    @property
    def notices(self) -> Notices:
        """Word of what changed."""
        ...

    @property
    def counters(self) -> Counters:
        """Counts of what happens too often."""
        ...

    @property
    def leases(self) -> Leases:
        """Who does what only one may do."""
        ...

    @property
    def inbox(self) -> Inbox:
        """Changes to publish."""
        ...

    @property
    def checkpoints(self) -> Checkpoints:
        """Positions of the readers of the inbox."""
        ...

    @property
    def sources(self) -> Sequence[Source]:
        """Where changes come from beside the inbox; none in a store that nobody else writes to."""
        ...

    @property
    def documents(self) -> Documents:
        """Collections, for jobs that go through them."""
        ...

    @property
    def runs(self) -> Runs:
        """Runs of jobs."""
        ...

    @property
    def mirror(self) -> Mirror | None:
        """Copies of entities that are read often; None in a store that is as near itself."""
        ...

    @property
    def watcher(self) -> Watcher | None:
        """Who keeps the mirror; None where there is none."""
        ...

    @property
    def audits(self) -> Audits:
        """Decisions worth keeping."""
        ...

    @property
    def statistics(self) -> Statistics:
        """Counters of changes."""
        ...

    def observed(self, counting: Counting) -> Sequence[Observed]:
        """Return everything from which changes are to be counted, by these rules."""
        ...

    async def troubles(self) -> Mapping[str, str | None]:
        """Return for each store behind this one (`mongodb`, `redis`, `sqlite`) in one line, that names it, why it cannot serve.

        None where it can.
        Takes no longer than a second or two, also when nobody answers.
        """
        ...

    def tell_lookups(self, told: Callable[[Lookup], None]) -> None:
        """Tell from now on what every look into the mirror came to."""
        ...

    @property
    def hooks_need(self) -> Collection[str]:
        """Those of them without which the hooks cannot decide; without the others they go on."""
        ...
