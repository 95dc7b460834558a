"""Housekeeping removes what is due and nothing else."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.model import Audit, Change, ChangeOp, Session
from companion.core.ports import Lease
from companion.core.revocations import Target, revocation_of
from companion.core.runs import Progress, Run, RunState, Trigger
from companion.leadership import Term
from companion.stores.embedded import EmbeddedStore
from maintenance.housekeeping import Housekeeping
from maintenance.job import Work
from tests.support.service import make_settings

DAY = 86_400


async def test_only_what_is_due_goes(tmp_path: Path) -> None:
    """Old acknowledged changes, audits, events, sessions, runs, revocations go; what is not done stays. Dry, all stays."""
    now = time.time()
    settings = make_settings(
        tmp_path,
        retention_changes=1,
        retention_audits=1,
        retention_audits_count=1000,
        retention_runs=1,
        retention_runs_count=1,
        retention_revocations=1,
    )
    async with EmbeddedStore.open(tmp_path) as store:
        await store.inbox.append([Change(str(n), ChangeOp.UPDATE, "d", "c", "1", 0) for n in range(4)])
        await store.inbox.bury(2, "refused")
        await store.checkpoints.save("publisher", "3", 1)
        await store.audits.append([Audit(int(1000 * (now + n)), "auth", "deny", "no_rule") for n in range(3)])
        await store.sessions.put(Session("u", "s:1", "u", "s", int(now) + 10))
        await store.presence.take([BrokerEvent("e", EventKind.SUBSCRIBED, 0, "c1")])
        for number in range(3):
            await store.runs.add(Run(f"{number}", "x", Trigger.PERSON, number, 0, state=RunState.DONE, ended_at=number))
        stands = revocation_of(Target.ACCOUNT, "alice", now)
        await store.revocations.add(stands)
        await store.revocations.add(replace(stands, id="over", lifted_at=1, waiting=False))

        async def last(*, dry: bool) -> Progress:
            run = Run("run", "housekeeping", Trigger.PERSON, 0, 0, dry=dry)
            term = Term(Lease("x", "me", 1), 60, 0, lambda: 0.0)
            work = Work(run, term, settings, store, now=lambda: now + 2 * DAY)
            return [progress async for progress in Housekeeping().batches(work)][-1]

        due = {"changes": 2, "audits": 3, "events": 1, "sessions": 1, "revocations": 1, "runs": 2}
        for _ in range(2):
            assert await last(dry=True) == Progress(10, 10, due)
        assert await last(dry=False) == Progress(10, 10, due)
        assert [item.position for item in await store.inbox.read(0, 10)] == [4]
        assert [item.position for item, _ in await store.inbox.dead()] == [2]
        assert await store.revocations.list() == [stands]
        assert (await last(dry=False)).done == 0


async def test_events(tmp_path: Path) -> None:
    """Events of the broker go when they are old, and, where they are counted, not before that."""
    now = time.time()
    async with EmbeddedStore.open(tmp_path) as store:
        await store.presence.take([BrokerEvent(f"{n}", EventKind.PUBLISHED, 0, "c1") for n in range(4)])

        async def removed(*, observer: bool) -> int:
            settings = make_settings(tmp_path, retention_events=1, observer=observer)
            term = Term(Lease("x", "me", 1), 60, 0, lambda: 0.0)
            run = Run("run", "housekeeping", Trigger.PERSON, 0, 0)
            work = Work(run, term, settings, store, now=lambda: now + 2 * DAY)
            return [progress.counts.get("events", 0) async for progress in Housekeeping().batches(work)][-1]

        assert await removed(observer=True) == 0
        await store.statistics.claim(1)
        await store.statistics.apply(1, 1, "events", "3", {})
        assert await removed(observer=True) == 3
        assert await removed(observer=False) == 1


async def test_what_is_not_counted_stays(tmp_path: Path) -> None:
    """With an observer, a published change goes when it is counted too."""
    now = time.time()
    settings = make_settings(tmp_path, retention_changes=1, observer=True)
    async with EmbeddedStore.open(tmp_path) as store:
        await store.inbox.append([Change(str(n), ChangeOp.UPDATE, "d", "c", "1", 0) for n in range(4)])
        await store.checkpoints.save("publisher", "3", 1)

        async def removed() -> int:
            term = Term(Lease("x", "me", 1), 60, 0, lambda: 0.0)
            run = Run("run", "housekeeping", Trigger.PERSON, 0, 0)
            work = Work(run, term, settings, store, now=lambda: now + 2 * DAY)
            return [progress.counts.get("changes", 0) async for progress in Housekeeping().batches(work)][-1]

        assert await removed() == 0
        await store.statistics.claim(1)
        await store.statistics.apply(1, 1, "inbox", "2", {})
        assert await removed() == 2
        await store.statistics.apply(1, 2, "inbox", "4", {})
        assert await removed() == 1
        assert [item.position for item in await store.inbox.read(0, 10)] == [4]
