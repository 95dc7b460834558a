"""The port `Runs`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from companion.core.errors import Fenced
from companion.core.ports import Store
from companion.core.runs import ENDED, Progress, Run, RunState, Trigger
from tests.support.entities import HOSTILE

PORTS = {"runs"}


def run(run_id: str = "r", job: str = "cleaner", *, at: int = 1000, **fields: Any) -> Run:
    values: dict[str, Any] = {"id": run_id, "job": job, "requested_at": at, "due_at": at}
    return Run(**{"trigger": Trigger.SCHEDULE, **values, **fields})


def ids(runs: Sequence[Run]) -> list[str]:
    return [one.id for one in runs]


async def test_every_field_comes_back(store: Store, other: Store) -> None:
    """What was added is what is found, in this process and another."""
    added = run(
        "é🦔",
        trigger=Trigger.PERSON,
        parameters={"policy": "audits", "deep": {"list": [1, None, True, "é"]}},
        dry=True,
        priority=-3,
        attempt=2,
        progress=Progress(1, None, {"deleted": 1}, '{"after": "x"}'),
        error="why",
    )
    assert await store.runs.add(added)
    assert await other.runs.get("é🦔") == added
    assert await other.runs.get("nobody") is None


async def test_once_for_each_id(store: Store, other: Store) -> None:
    """Of many who ask for the same run at once, one does; the first one stays."""
    asked = [(store if n % 2 else other).runs.add(run("tick", parameters={"n": n})) for n in range(20)]
    answers = await asyncio.gather(*asked)
    assert sum(answers) == 1
    found = await store.runs.get("tick")
    assert found is not None
    assert found.parameters == {"n": answers.index(True)}
    for name in HOSTILE:
        assert await store.runs.add(run(name))
    assert len(await store.runs.list(limit=1000)) == len(HOSTILE) + 1


async def test_lists(store: Store) -> None:
    """Those requested last come first; by job and by state."""
    for number in range(6):
        state = RunState.DONE if number % 3 == 0 else RunState.WAITING
        await store.runs.add(run(f"{number}", ("a", "b")[number % 2], at=1000 + number, state=state))
    assert ids(await store.runs.list()) == ["5", "4", "3", "2", "1", "0"]
    assert ids(await store.runs.list(limit=2)) == ["5", "4"]
    assert ids(await store.runs.list(jobs=["a"])) == ["4", "2", "0"]
    assert ids(await store.runs.list(states=ENDED)) == ["3", "0"]
    assert ids(await store.runs.list(jobs=["b"], states=[RunState.DONE])) == ["3"]
    assert ids(await store.runs.list(jobs=[])) == []


async def test_who_is_next(store: Store) -> None:
    """Of those that are due, the most urgent first, then the one that waits longest."""
    for number, (job, due, priority) in enumerate(
        [("a", 30, 0), ("a", 20, 0), ("b", 10, 0), ("a", 40, 5), ("a", 50, 0), ("c", 1, 9)]
    ):
        await store.runs.add(run(f"{number}", job, due_at=due, priority=priority))
    await store.runs.add(run("over", "a", due_at=1, state=RunState.DONE))
    assert ids(await store.runs.waiting(["a", "b"], 45)) == ["3", "2", "1", "0"]
    assert ids(await store.runs.waiting(["a", "b"], 45, 2)) == ["3", "2"]
    assert ids(await store.runs.waiting(["a"], 5)) == []
    assert ids(await store.runs.waiting([], 50)) == []


async def test_a_life(store: Store, other: Store) -> None:
    """Begun, advanced, ended: each is seen by others, and what has ended is not begun again."""
    await store.runs.add(run())
    begun = await store.runs.begin("r", "me", 7, 2000)
    assert begun == replace(run(), state=RunState.RUNNING, holder="me", fence=7, started_at=2000, beat_at=2000)
    assert ids(await other.runs.waiting(["cleaner"], 9000)) == []
    progress = Progress(5, 10, {"deleted": 5}, "5")
    assert not await store.runs.advance("r", 7, progress, 1, 3000)
    assert await other.runs.get("r") == replace(begun, progress=progress, batches=1, beat_at=3000)
    await store.runs.end("r", 7, RunState.FAILED, "no luck", 4000)
    ended = await other.runs.get("r")
    assert ended == replace(
        begun, progress=progress, batches=1, beat_at=4000, ended_at=4000, state=RunState.FAILED, error="no luck"
    )
    assert await store.runs.begin("r", "me", 8, 5000) is None
    assert await store.runs.begin("nobody", "me", 8, 5000) is None
    with pytest.raises(Fenced):
        await store.runs.end("r", 7, RunState.DONE, "", 6000)


async def test_fences(store: Store, other: Store) -> None:
    """Who takes over has a higher fence; the one before writes nothing more, and a lower one cannot begin."""
    await store.runs.add(run())
    await store.runs.begin("r", "old", 5, 1000)
    await store.runs.advance("r", 5, Progress(1), 1, 2000)
    taken = await other.runs.begin("r", "new", 6, 3000)
    assert taken is not None
    assert (taken.holder, taken.fence, taken.started_at, taken.progress.done) == ("new", 6, 1000, 1)
    with pytest.raises(Fenced):
        await store.runs.advance("r", 5, Progress(2), 2, 4000)
    with pytest.raises(Fenced):
        await store.runs.end("r", 5, RunState.DONE, "", 4000)
    with pytest.raises(Fenced):
        await store.runs.begin("r", "old", 5, 4000)
    assert await other.runs.get("r") == taken


async def test_put_back(store: Store) -> None:
    """A run that is to go on later waits again, with all that it had reached."""
    await store.runs.add(run())
    await store.runs.begin("r", "me", 5, 1000)
    await store.runs.advance("r", 5, Progress(3, 9, {}, "3"), 1, 2000)
    await store.runs.end("r", 5, RunState.WAITING, "", 3000)
    (waits,) = await store.runs.waiting(["cleaner"], 9000)
    assert (waits.progress.position, waits.ended_at, waits.started_at) == ("3", None, 1000)
    again = await store.runs.begin("r", "me", 6, 4000)
    assert again is not None
    assert (again.started_at, again.beat_at) == (1000, 4000)


async def test_cancelled(store: Store, other: Store) -> None:
    """One that waits is over at once; one that runs hears of it when it advances; one that has ended stays as it is."""
    for name in ("waits", "runs", "over"):
        await store.runs.add(run(name))
    await store.runs.begin("runs", "me", 1, 1000)
    await store.runs.begin("over", "me", 1, 1000)
    await store.runs.end("over", 1, RunState.DONE, "", 1500)
    waited = await other.runs.cancel("waits", 2000)
    assert waited is not None
    assert (waited.state, waited.ended_at) == (RunState.CANCELLED, 2000)
    running = await other.runs.cancel("runs", 2000)
    assert running is not None
    assert (running.state, running.cancelling, running.ended_at) == (RunState.RUNNING, True, None)
    assert await store.runs.advance("runs", 1, Progress(), 1, 3000)
    over = await other.runs.cancel("over", 2000)
    assert over is not None
    assert (over.state, over.cancelling) == (RunState.DONE, False)
    assert await other.runs.cancel("nobody", 2000) is None


async def test_pruning(store: Store) -> None:
    """The oldest that ended go, but of each job its newest stay, and so do those that wait or run."""
    for number in range(10):
        await store.runs.add(run(f"a{number}", "a", at=number, state=RunState.DONE, ended_at=number))
    for number in range(3):
        await store.runs.add(run(f"b{number}", "b", at=number, state=RunState.FAILED, ended_at=number))
    await store.runs.add(run("waits", "a", at=0))
    await store.runs.add(run("runs", "a", at=0, state=RunState.RUNNING))
    assert await store.runs.prune(keep=3, before=5, limit=100, dry=True) == 5
    assert await store.runs.prune(keep=3, before=5, limit=2) == 2
    assert await store.runs.prune(keep=3, before=5, limit=100) == 3
    assert await store.runs.prune(keep=3, before=5, limit=100) == 0
    left = {*ids(await store.runs.list())}
    assert left == {"a5", "a6", "a7", "a8", "a9", "b0", "b1", "b2", "waits", "runs"}
    assert await store.runs.prune(keep=3, before=100, limit=100) == 2
    assert await store.runs.prune(keep=0, before=100, limit=100) == 6
