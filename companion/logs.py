"""Structured logs: one event a line on standard error, JSON for machines or coloured text for people.

Lines of libraries (the standard `logging`) go through the same renderer. Nothing here ever sees a password, a token or a key:
what is logged is named field by field where it happens.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import PurePath
from traceback import walk_tb
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "console", "json"]

# Each narrates every packet or command below this level; those of MongoDB and of S3 with the documents, and so with the hashes of
# passwords.
_QUIET = {
    "amqtt": logging.ERROR,
    "transitions": logging.ERROR,
    "gmqtt": logging.ERROR,
    "apscheduler": logging.WARNING,
    "pymongo": logging.WARNING,
    "boto3": logging.WARNING,
    "botocore": logging.WARNING,
    "urllib3": logging.WARNING,
    "aiohttp.access": logging.WARNING,
}


def configure_logs(log_format: LogFormat, level: str) -> None:
    """Set up logging for the process; `auto` is text on a terminal and JSON elsewhere. `level` is a name such as `info`."""
    json_lines = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Processor] = [_without_text]
    if json_lines:
        render.append(structlog.processors.JSONRenderer(serializer=_one_line))
    else:
        render += [_printable, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False)]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    logging.getLogger("aiohttp.server").addFilter(_callers_mistakes)
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(max(number, quiet))


def _callers_mistakes(record: logging.LogRecord) -> bool:
    """Make what a caller breaks of HTTP a matter for debugging: it is answered with 400, and anybody could fill the log with it."""
    kind = record.exc_info[0] if record.exc_info else None
    if kind is None or kind.__module__ != "aiohttp.http_exceptions":
        return True
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return logging.getLogger().isEnabledFor(logging.DEBUG)


def told(problem: BaseException) -> str:
    """Return the kind of an exception and where it came from, innermost first: its text and its variables may repeat a secret."""
    places = [f"{PurePath(frame.f_code.co_filename).name}:{line}" for frame, line in walk_tb(problem.__traceback__)]
    return " < ".join([type(problem).__name__, *reversed(places)])


def _without_text(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put `told` in the place of a traceback."""
    info = event.pop("exc_info", None)
    problem = (
        info
        if isinstance(info, BaseException)
        else info[1]
        if isinstance(info, tuple)
        else sys.exception()
        if info
        else None
    )
    if problem is not None:
        event["raised"] = told(problem)
    return event


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape what a client id or a topic could do to a terminal or to the line structure."""
    return {
        key: ascii(value)[1:-1] if isinstance(value, str) and not value.isprintable() else value
        for key, value in event.items()
    }


def _one_line(event: EventDict, **options: Any) -> str:  # noqa: ANN401 - what the renderer hands on to `json.dumps`
    """Return JSON that no terminal and no reader of lines understands as more than text."""
    text = json.dumps(event, ensure_ascii=False, **options)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    # DEL is ASCII, which json leaves as it is.
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
