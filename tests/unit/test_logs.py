"""Logs: one event a line, for machines or for people, and nothing in a line that a client put there as more than text."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from aiohttp.http_exceptions import BadHttpMessage

from companion.logs import LogFormat, configure_logs

HOSTILE = {
    "a line break": "a\n{}",
    "a return": "a\rb",
    "an escape": "\x1b[31mred\x1b[0m",
    "a bell": "\a",
    "NUL": "\0",
    "delete": "\x7f",
    "the one-byte escape": "\x9b31m",
    "a next line": "a\x85b",
    "a line separator": "a\u2028b",
    "turned text": "\u202eecila",
    "a lone surrogate": "\udc80",
    "quotes": "\" ' \\ =",
    "words": "é 🦔 ålice",
}


Start = Callable[[LogFormat, str], io.TextIOWrapper]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Return what configures logs to a stream like the real one, no terminal, in place of standard error."""

    def configured(log_format: LogFormat, level: str) -> io.TextIOWrapper:
        stream = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logs(log_format, level)
        return stream

    return configured


def written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def the_line(stream: io.TextIOWrapper) -> str:
    """Return the one line that was written; every terminal and every reader of lines sees one."""
    text = written(stream)
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    return text[:-1]


def the_event(stream: io.TextIOWrapper) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(the_line(stream))
    return event


@pytest.mark.parametrize("log_format", ["json", "auto"])
def test_json(start: Start, log_format: LogFormat) -> None:
    """Machines get an object with the event, its level, its time in UTC and its fields; so does whatever is no terminal."""
    stream = start(log_format, "info")
    structlog.get_logger("x").warning("something happened", count=3, nothing=None, listed=["é"])
    event = the_event(stream)
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "something happened", "level": "warning", "count": 3, "nothing": None, "listed": ["é"]}


def test_console(start: Start) -> None:
    """People get text."""
    stream = start("console", "info")
    structlog.get_logger("x").warning("something happened", count=3)
    line = the_line(stream)
    assert "something happened" in line
    assert "count=3" in line
    assert "warning" in line


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_client_calls_itself(start: Start, log_format: LogFormat, name: str) -> None:
    """No value breaks a line, moves a cursor or hides what follows; JSON gives it back as it was."""
    stream = start(log_format, "info")
    structlog.get_logger("x").info("decision", client_id=HOSTILE[name])
    if log_format == "json":
        assert the_event(stream)["client_id"] == HOSTILE[name]
    else:
        assert "client_id=" in the_line(stream)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_library_repeats(start: Start, name: str) -> None:
    """The same holds for lines of libraries."""
    stream = start("json", "info")
    logging.getLogger("library").error("got %s", HOSTILE[name])
    assert the_event(stream)["event"] == f"got {HOSTILE[name]}"


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_levels(start: Start, level: str, count: int) -> None:
    """What is below the level is not written, whether we or a library say it."""
    stream = start("json", level)
    log = structlog.get_logger("x")
    library = logging.getLogger("library")
    for one in ("debug", "info", "warning", "error"):
        getattr(log, one)("x")
        getattr(library, one)("x")
    assert written(stream).count("\n") == 2 * count


@pytest.mark.parametrize(
    "name", ["amqtt.broker", "transitions.core", "gmqtt.client", "pymongo.command", "aiohttp.access"]
)
def test_talkative_libraries(start: Start, name: str) -> None:
    """What others narrate at every packet is left out, at every level of ours; their errors are not."""
    stream = start("json", "debug")
    logging.getLogger(name).info("packet")
    assert written(stream) == ""
    logging.getLogger(name).error("broken")
    assert the_event(stream)["event"] == "broken"


@pytest.mark.parametrize(("level", "lines"), [("debug", ["debug"]), ("info", [])])
def test_what_callers_break(start: Start, level: str, lines: list[str]) -> None:
    """HTTP that a caller breaks, which aiohttp calls an error, is told for debugging only; what breaks in us stays an error."""
    stream = start("json", level)
    for problem in (BadHttpMessage("what a caller sent"), ValueError("ours")):
        logging.getLogger("aiohttp.server").error("Error handling request", exc_info=problem)
    entries = [json.loads(line) for line in written(stream).splitlines()]
    assert [one["level"] for one in entries] == [*lines, "error"]
    assert "what a caller sent" not in written(stream)


def test_configured_twice(start: Start) -> None:
    """Configuring again replaces, and does not add."""
    stream = start("json", "info")
    configure_logs("json", "info")
    logging.getLogger("library").error("once")
    assert the_event(stream)["event"] == "once"


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("who", ["we", "a library"])
def test_an_exception_is_told_without_its_text(start: Start, log_format: LogFormat, who: str) -> None:
    """An exception's text and the variables around it may hold what a client sent; its kind and its place do not."""
    stream = start(log_format, "info")
    try:
        _fail("s3cret")
    except ValueError:
        if who == "we":
            structlog.get_logger("x").error("failed", exc_info=True)
        else:
            logging.getLogger("library").exception("failed")
    line = the_line(stream)
    assert "s3cret" not in line
    assert "ValueError" in line
    assert "test_logs.py" in line


def _fail(password: str) -> None:
    raise ValueError(f"{password} is wrong")
