"""A store of every adapter that has the ports of a suite, and ways to open more of them on the same data.

A suite names its ports in `PORTS`; one that does not, needs all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.adapters import ADAPTERS, EVERY_PORT, Open


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test of a suite once for each adapter."""
    if "open_store" in metafunc.fixturenames:
        ports = getattr(metafunc.module, "PORTS", EVERY_PORT)
        names = [name for name, adapter in ADAPTERS.items() if ports <= adapter.ports]
        assert names, ports
        metafunc.parametrize("open_store", names, indirect=True)


@pytest.fixture
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Return what opens a store; every store it opens has the data of this test."""
    name: str = request.param
    return ADAPTERS[name].make(tmp_path)


@pytest.fixture
async def store(open_store: Open) -> AsyncIterator[Any]:
    """Open one store."""
    async with open_store() as opened:
        yield opened


@pytest.fixture
async def other(open_store: Open, store: Any) -> AsyncIterator[Any]:
    """Open a second store on the data of the first, as another process has it."""
    async with open_store() as opened:
        assert opened is not store
        yield opened
