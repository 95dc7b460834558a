"""Each run of a fault test leaves one line, shown at the end of the tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_LINES = pytest.StashKey[list[str]]()

Note = Callable[[str], None]


@pytest.fixture
def note(pytestconfig: pytest.Config) -> Note:
    """Return what keeps a line for the end."""
    return pytestconfig.stash.setdefault(_LINES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the lines."""
    lines = config.stash.get(_LINES, [])
    if lines:
        terminalreporter.section("runs with faults")
        for line in lines:
            terminalreporter.write_line(line)
