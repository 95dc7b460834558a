"""The pipeline under a lease that has run out."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence

import pytest

from companion.core.errors import Fenced
from companion.core.model import Change, ChangeOp, Incident
from companion.core.ports import Item, Lease
from companion.core.routing import DEFAULT_TOPICS, Router
from companion.leadership import Term
from companion.metrics import Metrics
from publishers.messages import Message
from publishers.pipeline import Pipeline
from publishers.rendering import Renderer

SECONDS = 10.0
SAFE = 3


class Endless:
    """A source that always has one change more, each of an entity of its own, after a moment or none."""

    name = "endless"
    incidents: Mapping[Incident, int] = {}

    def __init__(self, turns: int) -> None:
        self._turns = turns
        self._numbers = itertools.count(1)
        self.reads = 0

    async def open(self, fence: int) -> None: ...

    async def read(self, limit: int) -> Sequence[Item]:
        del limit
        self.reads += 1
        for _ in range(self._turns):
            await asyncio.sleep(0)
        number = next(self._numbers)
        change = Change(f"e{number}", ChangeOp.UPDATE, "thing", "devices", f"d{number}", 0, after={"owner": "alice"})
        return [Item(str(number), change)]

    async def acknowledge(self, acknowledged: Sequence[tuple[str, int]]) -> None: ...

    async def save(self, position: str) -> None: ...

    async def bury(self, item: Item, reason: str) -> None: ...

    async def backlog(self) -> int | None:
        return None

    async def close(self) -> None: ...


class Prompt:
    """A broker that acknowledges at once."""

    connected = True
    trouble = None

    def __init__(self) -> None:
        self.delivered = 0

    async def deliver(self, message: Message) -> None:
        del message
        self.delivered += 1


@pytest.mark.parametrize("turns", range(1, 6))
async def test_a_lease_that_runs_out_while_changes_come(turns: int) -> None:
    """Nothing is published any more, and the end of it is `Fenced` and nothing else, wherever reading is at that moment."""
    source, broker = Endless(turns), Prompt()
    pipeline = Pipeline(
        sources=(source,),
        delivery=broker,
        renderer=Renderer(Router(DEFAULT_TOPICS, 100), 1, 0),
        metrics=Metrics(),
        limit=100,
        attempts=1,
    )
    term = Term(Lease("publisher", "we", 1), SECONDS, 0.0, lambda: 0.0 if source.reads <= SAFE else SECONDS)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(pipeline.run(term), SECONDS)
    fenced, others = caught.value.split(Fenced)
    assert (fenced is not None, others) == (True, None)
    assert 0 < broker.delivered <= SAFE
