"""Who revokes, killed (`kill -9`) before and after every single step, one after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from companion.core.revocations import Done, Revocation, Step, Target, revocation_of
from companion.stores.embedded import EmbeddedStore
from tests.conftest import Note
from tests.faults.killing import BesideEmqx, brokers, kill_at_every_step
from tests.support.entities import session

MINE: Final = ("a1", "a2", "a3")
MOST_STEPS: Final = 200


class Revoked(BesideEmqx):
    """Somebody who is to be revoked, who is connected, and somebody else."""

    id = ""

    async def prepare(self) -> Mapping[str, Any]:
        self.begin()
        for name in MINE:
            self.emqx.connect(name, "alice")
        self.emqx.connect("b", "bob")
        async with EmbeddedStore.open(self.data) as store:
            await self.add(store)
        return self.settings(revocation_settle=0, revocation_lease=0.3)

    async def add(self, store: EmbeddedStore) -> None:
        one = revocation_of(Target.ACCOUNT, "alice", time.time(), ban=3600, reason="stolen", asked_by="test")
        self.id = one.id
        await store.sessions.put(session("alice", "a1"))
        assert await store.revocations.add(one)

    async def check(self, *, undisturbed: bool) -> None:
        """Everybody whom it concerns is gone and nobody else; the ban stands; all is noted once, in order, and in the audit."""
        del undisturbed
        record = await self.record()
        assert list(self.emqx.clients) == ["b"]
        assert sorted(set(self.emqx.kicked)) == sorted(MINE)
        assert [ban["who"] for ban in self.emqx.banned.values()] == ["alice"]
        assert [one.step for one in record.steps] == [Step.TOLD, Step.CACHES, Step.BAN, Step.KICK, Step.CHECK]
        lines = self.emqx.lines
        caches = [n for n, line in enumerate(lines) if line.endswith("/node_cache/reset")]
        bans = [n for n, line in enumerate(lines) if line == "POST /banned"]
        looks = [n for n, line in enumerate(lines) if line == "GET /clients"]
        kicks = [n for n, line in enumerate(lines) if line.startswith("POST /clients/kickout")]
        assert max(caches) < min(bans)
        assert max(bans) < min(looks) < min(kicks)
        assert max(looks) > max(kicks)
        await self.check_audits(["told", "done"])

    async def record(self) -> Revocation:
        async with EmbeddedStore.open(self.data) as store:
            record = await store.revocations.get(self.id)
        assert record is not None
        assert replace(record, waiting=False) == record
        assert record.next is None
        return record

    async def check_audits(self, wanted: list[str]) -> None:
        async with EmbeddedStore.open(self.data) as store:
            reasons = [one.reason for one in (await store.audits.latest(100))[::-1] if one.rule == self.id]
        # A record whose note was lost is written once more; none is missing.
        once = [reason for n, reason in enumerate(reasons) if n == 0 or reasons[n - 1] != reason]
        assert once == wanted
        assert len(reasons) <= len(wanted) + 1


class Lifted(Revoked):
    """Somebody who was revoked, with a ban that is to be taken back."""

    async def add(self, store: EmbeddedStore) -> None:
        one = revocation_of(Target.ACCOUNT, "alice", time.time(), ban=3600)
        self.id = one.id
        steps = tuple(Done(step, one.at, 1) for step in one.plan)
        self.emqx.banned["username", "alice"] = {"as": "username", "who": "alice"}
        assert await store.revocations.add(replace(one, waiting=False, steps=steps))
        assert await store.revocations.lift(self.id, int(time.time() * 1000)) is not None

    async def check(self, *, undisturbed: bool) -> None:
        """Check that the ban is gone, and that nobody else was kicked."""
        del undisturbed
        record = await self.record()
        assert self.emqx.banned == {}
        assert [one.step for one in record.steps][-2:] == [Step.LIFTED, Step.UNBAN]
        assert self.emqx.kicked == []
        await self.check_audits(["lifted", "done"])


@pytest.mark.timeout(280)
@pytest.mark.parametrize(("case", "least"), [(Revoked, 25), (Lifted, 12)], ids=["revokes", "lifts"])
async def test_the_revoker(case: type[Revoked], least: int, tmp_path: Path, note: Note) -> None:
    """Killed before and after each of its steps, in turn: the next life comes to the same end, also of what is taken back."""
    async with brokers() as found:
        cases = [case(tmp_path / f"{n}", emqx) for n, emqx in enumerate(found)]
        steps, _ = await kill_at_every_step(tmp_path, note, "revoker", cases)
    assert least < steps < MOST_STEPS
