"""A store of every adapter, and ways to open more of them on the same data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from companion.core.ports import Store
from tests.support.adapters import ADAPTERS, Open


@pytest.fixture(params=ADAPTERS)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Return what opens a store; every store it opens has the data of this test."""
    name: str = request.param
    return ADAPTERS[name](tmp_path)


@pytest.fixture
async def store(open_store: Open) -> AsyncIterator[Store]:
    """Open one store."""
    async with open_store() as opened:
        yield opened


@pytest.fixture
async def other(open_store: Open, store: Store) -> AsyncIterator[Store]:
    """Open a second store on the data of the first, as another process has it."""
    async with open_store() as opened:
        assert opened is not store
        yield opened
