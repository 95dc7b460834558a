"""The follower of the mirror dies between any two of its steps, and the next one comes to the same end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from companion.stores.mongo import following
from companion.stores.mongo.checkpoints import MongoCheckpoints
from companion.stores.mongo.following import Following
from companion.stores.mongo.mirror_place import COLLECTION
from tests.support.mirroring import Mirrored, mirrored
from tests.support.mongo import shared_url

Called = Callable[[str], None]


class Died(Exception):
    """The process ended here."""


class Steps:
    """Something whose every call is a step: `told` hears of it before and after."""

    def __init__(self, inner: Any, told: Called) -> None:
        self._inner = inner
        self._told = told

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            self._told(f"{name} begun")
            result = await getattr(self._inner, name)(*args, **options)
            self._told(f"{name} done")
            return result

        return call


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often how far we have come."""
    monkeypatch.setattr(following, "_BEAT_SECONDS", 0.03)


async def life(house: Mirrored, told: Called) -> None:
    """Follow the users only, in a life of the process whose steps are told."""
    house.fence += 1
    checkpoints = MongoCheckpoints(house.client, COLLECTION)
    follower = Following(
        client=house.client,
        mirror=Steps(house.mirror, told),
        checkpoints=Steps(checkpoints, told),
        hots=[house.hot_users],
        fence=house.fence,
        onlooker=house.heard,
        batch=3,
    )
    await follower.run()


async def edits(house: Mirrored, number: int) -> None:
    """Change something of everything."""
    await house.users.insert_one({"_id": f"new {number}", "username": f"new {number}", "password": "x"})
    await house.users.update_one({"_id": f"{number}"}, {"$set": {"status": "BLOCKED"}})
    await house.users.delete_one({"_id": f"{number + 1}"})


async def trouble(house: Mirrored) -> str:
    """Tell how the copies of the users are not what they should be, may not be read, or are left of other generations."""
    hot = house.hot_users
    if await house.find(hot, "x") is None:
        return "the mirror may not be read"
    if wrong := await house.wrong():
        return f"wrong: {wrong}"
    redis = house.mirror._client.redis  # type: ignore[attr-defined]
    roots = {key.split(b":doc:")[0] async for key in redis.scan_iter(match=f"*{hot.place}*:doc:*")}
    return "" if len(roots) == 1 else f"generations: {sorted(roots)}"


async def settle(house: Mirrored, told: Called) -> None:
    """Follow until everything is right."""
    task = asyncio.create_task(life(house, told))
    try:
        deadline = time.monotonic() + 30
        while problem := await trouble(house):
            assert time.monotonic() < deadline, problem
            assert not task.done()
            await asyncio.sleep(0.02)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_death_between_any_two_steps() -> None:
    """Whatever it had just done or was about to do; what was changed meanwhile is in the mirror as well."""
    steps: list[str] = []

    async def trial(fatal: int | None) -> None:
        def told(step: str) -> None:
            count.append(step)
            if len(count) == fatal:
                raise Died

        count: list[str] = []
        async with mirrored(shared_url()) as house:
            await house.users.insert_many([{"_id": f"{n}", "username": f"u{n}", "password": "x"} for n in range(8)])
            if fatal is None:
                await settle(house, told)
                await edits(house, 1)
                await settle(house, told)
                steps.extend(count)
                return
            task = asyncio.create_task(life(house, told))
            await edits(house, 1)
            with pytest.raises(Died):
                await asyncio.wait_for(task, 30)
            await edits(house, 4)
            await settle(house, lambda _: None)

    await trial(None)
    first_life = steps[: steps.index("sweep done") + 8]
    assert {"claim", "save", "begin", "put", "promote", "serve", "sweep"} <= {one.split()[0] for one in first_life}
    for fatal in range(1, len(first_life) + 1):
        await trial(fatal)
