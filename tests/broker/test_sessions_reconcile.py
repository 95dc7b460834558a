"""The reconciler of sessions, against the stand-in of EMQX's REST API."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from companion.core.errors import Invalid, Transient
from companion.core.ports import Lease, Store
from companion.core.revocations import Target, revocation_of
from companion.core.runs import Progress, Run, Trigger
from companion.emqx_api import PAGE
from companion.leadership import Term
from companion.stores.embedded import EmbeddedStore
from maintenance import sessions_reconcile
from maintenance.catalogue import schedules
from maintenance.job import Work
from maintenance.sessions_reconcile import SessionsReconcile
from tests.support.emqx import Emqx, options
from tests.support.entities import account, session
from tests.support.service import make_settings

NOW = int(time.time())


@dataclass(slots=True)
class Scene:
    """A broker, a store, and runs of the job over them."""

    folder: Path
    emqx: Emqx
    store: Store

    async def run(
        self,
        *,
        dry: bool = False,
        parameters: Mapping[str, Any] | None = None,
        before: Progress | None = None,
        **more: Any,
    ) -> Progress:
        """Run to the end, and return the last progress."""
        settings = make_settings(self.folder, **options(self.emqx.url), **{"reconciler_most": 100.0, **more})
        run = Run(
            "run", "sessions-reconcile", Trigger.PERSON, 0, 0, parameters or {}, dry=dry, progress=before or Progress()
        )
        work = Work(run, Term(Lease("x", "me", 1), 60, 0, lambda: 0.0), settings, self.store)
        return [progress async for progress in SessionsReconcile().batches(work)][-1]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    emqx = Emqx()
    async with emqx.serving(), EmbeddedStore.open(tmp_path) as store:
        yield Scene(tmp_path, emqx, store)


async def people(scene: Scene) -> None:
    """Let somebody of every kind be connected; those whose client id begins with `ok` may be."""
    await scene.store.accounts.add(
        [
            account("fine"),
            account("disabled", disabled=True),
            account("expired", expires_at=NOW - 10),
            account("later", expires_at=NOW + 1000),
            account("revoked"),
        ]
    )
    for client_id, username in (
        *(("ok-1", "fine"), ("ok-2", "later"), ("ok-s:1", "u1"), ("bad-disabled", "disabled")),
        *(("bad-expired", "expired"), ("bad-removed", "nobody"), ("bad-revoked", "revoked"), ("bad-client", "fine")),
        *(("bad-s:1", "u1"), ("bad-s:2", "u2"), ("bad-s:3", "u3"), ("bad-s:4", "u4"), ("bad-nameless", "")),
    ):
        scene.emqx.connect(client_id, username)
    scene.emqx.connect("offline", "nobody", online=False)
    sessions: list[tuple[str, str, dict[str, Any]]] = [
        ("ok-s:1", "u1", {"session": "ok-s", "jti": "j1"}),
        ("bad-s:1", "u1", {"session": "bad-s", "jti": "j2"}),
        ("bad-s:2", "u2", {"session": "x", "jti": "bad-j"}),
        ("bad-s:3", "u3", {"session": "x", "digest": f"sha256:{'0' * 64}"}),
        ("bad-s:4", "u4", {"session": "x", "expires_at": NOW - 5}),
    ]
    for client_id, username, more in sessions:
        await scene.store.sessions.put(session(username, client_id, **{"expires_at": NOW + 1000, **more}))
    for target, name in (
        (Target.ACCOUNT, "revoked"),
        (Target.CLIENT, "bad-client"),
        (Target.SESSION, "bad-s"),
        (Target.TOKEN, "bad-j"),
        (Target.TOKEN, "0" * 64),
    ):
        await scene.store.revocations.add(revocation_of(target, name, NOW))
    lifted = revocation_of(Target.ACCOUNT, "fine", NOW)
    await scene.store.revocations.add(lifted)
    await scene.store.revocations.lift(lifted.id, NOW * 1000)


async def test_who_is_kicked(scene: Scene) -> None:
    """Exactly those who may not be there, counted by reason and named in the audit; a dry run tells the same and kicks nobody."""
    await people(scene)
    counts = {"looked at": 13, "revoked": 5, "disabled": 1, "expired": 2, "removed": 2}
    assert await scene.run(dry=True) == Progress(10, 10, counts)
    assert scene.emqx.kicked == []
    assert await scene.store.audits.latest(100) == []
    assert await scene.run() == Progress(10, 10, counts | {"kicked": 10})
    assert sorted(scene.emqx.clients) == ["offline", "ok-1", "ok-2", "ok-s:1"]
    named = {one.client_id: (one.reason, one.detail) for one in await scene.store.audits.latest(100)}
    assert len(named) == 10
    assert named["bad-disabled"] == ("reconciled", "disabled")
    assert named["bad-s:2"] == ("reconciled", "revoked")
    assert await scene.run() == Progress(0, 0, {"looked at": 3, "kicked": 0})


async def test_unknown_ones_may_stay(scene: Scene) -> None:
    """Where others let clients in as well, those of whom nothing is known stay."""
    await people(scene)
    assert (await scene.run(reconciler_removed=False)).counts["kicked"] == 8
    assert {"bad-removed", "bad-nameless"} <= scene.emqx.clients.keys()


async def test_too_many(scene: Scene) -> None:
    """When more than a share would be kicked nobody is, until somebody says that it is meant so."""
    await scene.store.accounts.add([account("fine")])
    for number in range(80):
        scene.emqx.connect(f"ok{number}", "fine")
    for number in range(20):
        scene.emqx.connect(f"bad{number}", "nobody")
    with pytest.raises(Invalid, match=r"reconciler_most: '20 % of 100 clients' .*yes-really=true"):
        await scene.run(reconciler_most=10.0)
    assert scene.emqx.kicked == []
    assert (await scene.run(reconciler_most=10.0, dry=True)).done == 20
    assert (await scene.run(reconciler_most=20.0)).counts["kicked"] == 20
    for number in range(20):
        scene.emqx.connect(f"bad{number}", "nobody")
    assert (await scene.run(reconciler_most=10.0, parameters={"yes-really": True})).counts["kicked"] == 20


async def test_a_few_are_never_too_many(scene: Scene) -> None:
    """Of few clients a large share may be few."""
    for number in range(10):
        scene.emqx.connect(f"bad{number}", "nobody")
    assert (await scene.run(reconciler_most=1.0)).counts["kicked"] == 10


async def test_pages_and_bounds(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pages are looked at; no more are kept in mind than a bound, and the next run does the rest."""
    monkeypatch.setattr(sessions_reconcile, "_MOST", 100)
    for number in range(PAGE + 50):
        scene.emqx.connect(f"c{number}", "nobody")
    first = await scene.run(reconciler_rate=100_000)
    assert (first.counts["looked at"], first.counts["removed"], first.counts["kicked"]) == (PAGE + 50, PAGE + 50, 100)
    assert len(scene.emqx.clients) == PAGE - 50


async def test_looked_at_once_more(scene: Scene) -> None:
    """Whoever has come to have a right to be there meanwhile stays, and who has gone is no error."""
    scene.emqx.connect("back", "alice")
    scene.emqx.connect("gone", "nobody")
    scene.emqx.connect("other", "nobody")

    def fault(asked: Any) -> None:
        if asked.path == "/clients/gone":
            scene.emqx.clients.pop("gone", None)
        if asked.path == "/clients/other":
            scene.emqx.clients["other"].username = "alice"

    scene.emqx.fault = fault
    settings = make_settings(scene.folder, **options(scene.emqx.url), reconciler_most=100.0)
    run = Run("run", "sessions-reconcile", Trigger.PERSON, 0, 0)
    work = Work(run, Term(Lease("x", "me", 1), 60, 0, lambda: 0.0), settings, scene.store)
    seen: list[Progress] = []
    async for progress in SessionsReconcile().batches(work):
        if not seen:
            await scene.store.accounts.add([account("alice")])
        seen.append(progress)
    assert seen[-1].counts == {"looked at": 3, "removed": 3, "kicked": 0}
    assert sorted(scene.emqx.clients) == ["back", "other"]


async def test_the_rate(scene: Scene) -> None:
    """No more are kicked in a second than is set."""
    for number in range(60):
        scene.emqx.connect(f"c{number}", "nobody")
    began = time.monotonic()
    await scene.run(reconciler_rate=50)
    assert time.monotonic() - began >= 1.0


async def test_what_was_kicked_before(scene: Scene) -> None:
    """A later life of a run counts on from what the one before had kicked."""
    scene.emqx.connect("c", "nobody")
    before = Progress(4, 5, {"kicked": 4, "looked at": 9}, "")
    assert await scene.run(before=before) == Progress(5, 5, {"looked at": 1, "removed": 1, "kicked": 5})


async def test_the_api_is_away(scene: Scene) -> None:
    """A run fails while nobody can be asked, and kicks nobody by half of the pages."""
    scene.emqx.connect("c", "nobody")
    scene.emqx.fault = lambda _: web.Response(status=503)
    with pytest.raises(Transient):
        await scene.run()
    assert scene.emqx.kicked == []


async def test_without_an_api(scene: Scene) -> None:
    """It is said that there is no API; by a schedule it does not run at all."""
    settings = make_settings(scene.folder)
    term = Term(Lease("x", "me", 1), 60, 0, lambda: 0.0)
    assert schedules({"sessions-reconcile": SessionsReconcile()}, settings)["sessions-reconcile"].every is None
    work = Work(Run("run", "sessions-reconcile", Trigger.PERSON, 0, 0), term, settings, scene.store)
    with pytest.raises(Invalid, match="emqx_url"):
        await anext(aiter(SessionsReconcile().batches(work)))
