"""The reconciler of sessions, killed (`kill -9`) before and after every single step, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from companion.stores.embedded import EmbeddedStore
from maintenance.sessions_reconcile import SessionsReconcile
from tests.conftest import Note
from tests.faults.killing import BesideEmqx, brokers, kill_at_every_step
from tests.support.entities import account

BAD: Final = tuple(f"bad{number}" for number in range(5))
MOST_STEPS: Final = 100


class Connected(BesideEmqx):
    """Clients of whom not all may be connected."""

    async def prepare(self) -> Mapping[str, Any]:
        now = self.begin()
        for name in BAD:
            self.emqx.connect(name, "nobody")
        self.emqx.connect("good", "alice")
        async with EmbeddedStore.open(self.data) as store:
            await store.accounts.add([account("alice")])
            await self.ask(store, SessionsReconcile(), now)
        return self.settings(reconciler_most=100, reconciler_rate=100_000)

    async def check(self, *, undisturbed: bool) -> None:
        """Exactly those who may not be there were kicked, each once; the run is done; hardly anybody is missing in the audit."""
        assert list(self.emqx.clients) == ["good"]
        assert sorted(self.emqx.kicked) == sorted(BAD)
        async with EmbeddedStore.open(self.data) as store:
            await self.done(store)
            audited = {one.client_id for one in await store.audits.latest(100)}
        # Who was kicked in the moment of the kill is noted by EMQX only.
        assert len(set(BAD) - audited) <= (0 if undisturbed else 2)
        assert audited <= set(BAD)


@pytest.mark.timeout(280)
async def test_the_reconciler_of_sessions(tmp_path: Path, note: Note) -> None:
    """Killed before and after each of its steps, in turn: the next life comes to the same end as an undisturbed run."""
    async with brokers() as found:
        cases = [Connected(tmp_path / f"{n}", emqx) for n, emqx in enumerate(found)]
        steps, _ = await kill_at_every_step(tmp_path, note, "sessions-reconcile", cases)
    assert 20 < steps < MOST_STEPS
