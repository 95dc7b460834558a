"""The set of those who are revoked, over a real store whose answers can be held back or fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from broker_hooks.revoked import REVOKED, Revoked
from companion.core.errors import Transient
from companion.core.model import Allow, Connect, Deny, Notice, Reason, Scope
from companion.core.ports import Store
from companion.core.revocations import Revocation, Standing, Target, digest_name, revocation_of
from companion.metrics import Metrics
from companion.stores.embedded import EmbeddedStore
from tests.support.waiting import wait_until

ALLOWED = Allow(Reason.PASSWORD)
ALICE = Connect("c1", "alice", "secret")
KEY = "account:alice"


class Faulty:
    """The port over a real one; it can be away, and it can be held up once it has looked."""

    def __init__(self, revocations: Any) -> None:
        self._revocations = revocations
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0

    async def standing(self, now: int, *, after: str = "", limit: int = 1000) -> Sequence[Standing]:
        self._check()
        found: Sequence[Standing] = await self._revocations.standing(now, after=after, limit=min(limit, 2))
        await self.gate.wait()
        return found

    async def of(self, keys: Sequence[str], now: int) -> Sequence[Standing]:
        self._check()
        self.asked += 1
        found: Sequence[Standing] = await self._revocations.of(keys, now)
        return found

    def _check(self) -> None:
        if self.away:
            raise Transient("the store is away")


class Scene:
    """A store, the set over it, and its clock."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.faulty = Faulty(store.revocations)
        self.now = 1000.0
        self.revoked = Revoked(self.faulty, Metrics(), seconds=3600, now=lambda: self.now)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.revoked.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def revoke(self, name: str = "alice", target: Target = Target.ACCOUNT, **more: Any) -> Revocation:
        one = revocation_of(target, name, self.now, **more)
        await self.store.revocations.add(one)
        return one

    async def settled(self) -> None:
        """Wait until all is read and nobody is in doubt."""
        await wait_until(lambda: self.revoked._whole and not self.revoked._doubtful, 10, "all is read")

    def tell(self, one: Revocation) -> None:
        self.revoked.heard([Notice(Scope.REVOCATION, one.key)])


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with EmbeddedStore.open(tmp_path) as store:
        yield Scene(store)


async def test_read_at_the_start(scene: Scene) -> None:
    """All are read, page by page; of several for one the longest counts, and a time that is over is over."""
    for number in range(5):
        await scene.revoke(f"u{number}")
    await scene.revoke("bob", seconds=10)
    await scene.revoke("bob", seconds=20)
    assert scene.revoked.some
    async with scene.running():
        await scene.settled()
        asked = scene.faulty.asked
        assert [await scene.revoked.refuses([f"account:u{number}"]) for number in range(6)] == [True] * 5 + [False]
        scene.now += 15
        assert await scene.revoked.refuses(["account:bob"])
        scene.now += 10
        assert not await scene.revoked.refuses(["account:bob"])
        assert scene.faulty.asked == asked


async def test_nobody_revoked(scene: Scene) -> None:
    """Where nobody is, nothing is looked for."""
    async with scene.running():
        await scene.settled()
        assert not scene.revoked.some
        assert await scene.revoked.judge(ALICE, ALLOWED) is ALLOWED


async def test_before_it_is_read(scene: Scene) -> None:
    """Until all is read the store is asked for each decision; when it is away, nobody is let in for that."""
    await scene.revoke()
    assert await scene.revoked.judge(ALICE, ALLOWED) == REVOKED
    assert await scene.revoked.judge(ALICE._replace(username="bob"), ALLOWED) is ALLOWED
    scene.faulty.away = True
    with pytest.raises(Transient):
        await scene.revoked.judge(ALICE, ALLOWED)


async def test_told_of(scene: Scene) -> None:
    """Who is told of is refused at once, also while the store is away, and let in again once it says that it was lifted."""
    async with scene.running():
        await scene.settled()
        scene.faulty.away = True
        one = await scene.revoke()
        scene.tell(one)
        assert await scene.revoked.judge(ALICE, ALLOWED) == REVOKED
        scene.faulty.away = False
        await scene.settled()
        await scene.store.revocations.lift(one.id, 1)
        scene.tell(one)
        await scene.settled()
        assert await scene.revoked.judge(ALICE, ALLOWED) is ALLOWED


async def test_two_for_one(scene: Scene) -> None:
    """Of two revocations of one account the other stands when one is lifted."""
    first, _ = await scene.revoke(), await scene.revoke()
    async with scene.running():
        await scene.settled()
        await scene.store.revocations.lift(first.id, 1)
        scene.tell(first)
        await scene.settled()
        assert await scene.revoked.judge(ALICE, ALLOWED) == REVOKED


async def test_something_was_missed(scene: Scene) -> None:
    """When something may be missed the store is asked until all is read again; while it is away what is known stays known."""
    await scene.revoke("bob")
    async with scene.running():
        await scene.settled()
        await scene.revoke("alice")
        assert await scene.revoked.judge(ALICE, ALLOWED) is ALLOWED
        scene.faulty.away = True
        scene.revoked.heard([Notice(Scope.EVERYTHING)])
        assert await scene.revoked.judge(ALICE._replace(username="bob"), ALLOWED) == REVOKED
        with pytest.raises(Transient):
            await scene.revoked.judge(ALICE, ALLOWED)
        scene.faulty.away = False
        assert await scene.revoked.judge(ALICE, ALLOWED) == REVOKED
        await scene.settled()
        assert await scene.revoked.judge(ALICE, ALLOWED) == REVOKED


async def test_told_while_reading(scene: Scene) -> None:
    """What comes between the look and its answer is not lost: word of one, or that something was missed."""
    scene.faulty.gate.clear()
    async with scene.running():
        await asyncio.sleep(0.05)
        one = await scene.revoke()
        scene.tell(one)
        scene.faulty.gate.set()
        await scene.settled()
        assert await scene.revoked.judge(ALICE, ALLOWED) == REVOKED
        scene.faulty.gate.clear()
        scene.revoked.heard([])
        await asyncio.sleep(0.05)
        await scene.revoke("bob")
        scene.revoked.heard([Notice(Scope.EVERYTHING)])
        scene.faulty.gate.set()
        await scene.settled()
        assert await scene.revoked.judge(ALICE._replace(username="bob"), ALLOWED) == REVOKED


async def test_other_words(scene: Scene) -> None:
    """Word of accounts and rules is none of ours."""
    async with scene.running():
        await scene.settled()
        scene.revoked.heard([Notice(Scope.ACCOUNT, "alice"), Notice(Scope.RULES), Notice(Scope.SESSION, "alice")])
        assert not scene.revoked.some


@pytest.mark.parametrize(
    ("target", "name"),
    [(Target.ACCOUNT, "alice"), (Target.CLIENT, "c1"), (Target.TOKEN, digest_name("secret"))],
)
async def test_what_a_login_shows(scene: Scene, target: Target, name: str) -> None:
    """A login is refused by its user name, its client id or the digest of what it showed; a refusal keeps its own reason."""
    await scene.revoke(name, target)
    async with scene.running():
        await scene.settled()
        assert await scene.revoked.judge(ALICE, ALLOWED) == REVOKED
        assert await scene.revoked.judge(Connect("c2", "bob", "other"), ALLOWED) is ALLOWED
        assert await scene.revoked.judge(Connect(), ALLOWED) is ALLOWED
        wrong = Deny(Reason.WRONG_PASSWORD)
        assert await scene.revoked.judge(ALICE, wrong) is wrong
