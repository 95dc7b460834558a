"""Work beside a block: it ends with the block, and its failure is not overheard."""

from __future__ import annotations

import asyncio

import pytest

from companion.background import background


async def test_it_ends_with_the_block() -> None:
    """What runs in the background is cancelled when the block ends, after `finish`."""
    order: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("cancelled")

    async def finish() -> None:
        order.append("finish")

    async with background(work(), finish=finish):
        await asyncio.sleep(0)
        order.append("block")
    assert order == ["block", "finish", "cancelled"]


async def test_a_failure_ends_the_block() -> None:
    """A work that fails cancels the block and its error leaves as a group."""

    async def work() -> None:
        raise ValueError("broken")

    with pytest.raises(ExceptionGroup) as caught:
        async with background(work()):
            await asyncio.Event().wait()
    assert isinstance(caught.value.exceptions[0], ValueError)


async def test_an_error_of_the_block_leaves_as_it_is() -> None:
    """The block's own error is not wrapped."""

    async def work() -> None:
        await asyncio.Event().wait()

    with pytest.raises(KeyError):
        async with background(work()):
            raise KeyError("mine")
