"""What every test may use."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path

import pytest
import structlog

from broker_hooks import audit
from companion.logs import configure_logs
from tests.support import mongo
from tests.support.service import Service, serving


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Undo what a test did to the logging of the process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def audits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write audit records without waiting for more to share their transaction, so that a test need not wait either."""
    monkeypatch.setattr(audit, "_EVERY", 0.0)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Log as a service does, JSON on standard error, at the most talkative level; return where it goes."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs("json", "debug")
    return stream


@pytest.fixture
async def hooks(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run the hooks, without accounts and rules; what they log is in `logged`."""
    del logged
    async with serving(tmp_path) as service:
        yield service


_LINES = pytest.StashKey[list[str]]()

Note = Callable[[str], None]


@pytest.fixture
def note(pytestconfig: pytest.Config) -> Note:
    """Return what keeps a line for the end: what a run with faults went through, or what was measured."""
    return pytestconfig.stash.setdefault(_LINES, []).append


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what went wrong in the stand-in of MongoDB, whose clients only see a connection closed."""
    report = yield
    if report.failed and (words := mongo.shared_words()):
        report.sections.append(("the stand-in of MongoDB", words))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the lines that were kept, and say loudly what could not be tested here."""
    if lines := config.stash.get(_LINES, []):
        terminalreporter.section("what was noted")
        for line in lines:
            terminalreporter.write_line(line)
    if any(mongo.NEEDED in str(report.longrepr) for report in terminalreporter.stats.get("skipped", ())):
        terminalreporter.section(mongo.NEEDED, sep="!", red=True, bold=True)
