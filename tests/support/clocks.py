"""A clock that a test moves."""

from __future__ import annotations

import pytest


class Clock:
    """Seconds, for durations and for moments alike; they pass when the test says so."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()
