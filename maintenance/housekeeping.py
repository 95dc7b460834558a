"""Housekeeping: what its retention has ended is removed, in small batches, so that the store does not grow for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from companion.core.runs import Progress
from companion.core.stats import Counting
from companion.job_settings import JobSettings
from maintenance.job import Work

_BATCH: Final = 1000
_ALL: Final = 2**31 - 1
_DAY: Final = 86_400
_PUBLISHER: Final = "publisher"
_INBOX: Final = "inbox"
"""The observer's reader of an inbox that keeps what is published: where there is one, positions are numbers."""

_EVENTS: Final = "events"

Remove = Callable[[int, bool], Awaitable[int]]
"""Removes up to so many, or only counts them, and tells how many."""


class Housekeeping:
    """Removes acknowledged changes, records of audits, events, sessions, revocations and runs when their time has come."""

    name = "housekeeping"
    purpose = "removes published changes, audit records, events, expired sessions, old runs and revocations when their time is over"
    parameters: Mapping[str, str] = MappingProxyType({})
    schedule = JobSettings(every=300, jitter=30)
    lease_seconds = 30.0
    resumes = True

    async def batches(self, work: Work) -> AsyncIterator[Progress]:
        """Count what is due, then remove it batch by batch.

        What a second process removed as well is merely gone already: no write needs a fence.
        """
        counts: Counter[str] = Counter(work.run.progress.counts)
        removals = await _removals(work)
        due: Counter[str] = Counter()
        for what, remove in removals:
            due[what] += await remove(_ALL, True)
        total = counts.total() + due.total()
        if work.run.dry:
            yield Progress(total, total, dict(due))
            return
        yield Progress(counts.total(), total, dict(counts))
        for what, remove in removals:
            while removed := await remove(_BATCH, False):
                counts[what] += removed
                yield Progress(counts.total(), max(total, counts.total()), dict(counts))


async def _published_and_counted(work: Work) -> int:
    """Return the position up to which nobody needs the changes of the inbox any more."""
    published = int(await work.store.checkpoints.load(_PUBLISHER) or 0)
    readers = {source.name for source in work.store.observed(work.settings.counting())}
    if not work.settings.observer or _INBOX not in readers:
        return published
    return min(published, int((await work.store.statistics.positions()).get(_INBOX, "0")))


async def _counted_events(work: Work) -> int | None:
    """Return the number up to which events are counted; None where nobody counts them by their numbers."""
    counting = work.settings.counting()
    if not work.settings.observer or not counting.events:
        return None
    return int((await work.store.statistics.positions()).get(_EVENTS, "0")) if _numbered(work, counting) else None


def _numbered(work: Work, counting: Counting) -> bool:
    return _INBOX in {source.name for source in work.store.observed(counting)}


async def _removals(work: Work) -> Sequence[tuple[str, Remove]]:
    settings, store, now = work.settings, work.store, work.now()
    changes_before = int((now - settings.retention_changes * _DAY) * 1000)
    audits_before = int((now - settings.retention_audits * _DAY) * 1000)
    runs_before = int((now - settings.retention_runs * _DAY) * 1000)
    revocations_before = int((now - settings.retention_revocations * _DAY) * 1000)
    through = await _published_and_counted(work)
    events_before = int((now - settings.retention_events * _DAY) * 1000)
    counted = await _counted_events(work)
    presence = store.presence
    inbox, audits, sessions, runs = store.inbox, store.audits, store.sessions, store.runs
    newest, kept = settings.retention_audits_count, settings.retention_runs_count
    return [
        ("changes", lambda limit, dry: inbox.prune(through=through, before=changes_before, limit=limit, dry=dry)),
        ("audits", lambda limit, dry: audits.prune(audits_before, limit, dry=dry)),
        ("audits", lambda limit, dry: audits.trim(newest, limit, dry=dry)),
        ("events", lambda limit, dry: presence.prune(events_before, counted, limit, dry=dry)),
        ("sessions", lambda limit, dry: sessions.prune(int(now), limit, dry=dry)),
        ("revocations", lambda limit, dry: store.revocations.prune(revocations_before, limit, dry=dry)),
        ("runs", lambda limit, dry: runs.prune(keep=kept, before=runs_before, limit=limit, dry=dry)),
    ]
