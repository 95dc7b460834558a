"""Structured logs: one event a line on standard error, JSON for machines or coloured text for people.

Lines of libraries (the standard `logging`) go through the same renderer. Nothing here ever sees a password, a token or a key:
what is logged is named field by field where it happens.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "console", "json"]

# amqtt and gmqtt narrate every packet at INFO; gmqtt repeats at WARNING what our delivery already says in its own words.
_QUIET = {
    "amqtt": logging.ERROR,
    "transitions": logging.ERROR,
    "gmqtt": logging.ERROR,
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
    render: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
        if json_lines
        else [
            _printable,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                sort_keys=False,
                # The default shows local variables, and one of them is a password.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    )
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
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(max(number, quiet))


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape what a client id or a topic could do to a terminal or to the line structure; JSON escapes it anyway."""
    return {
        key: ascii(value)[1:-1] if isinstance(value, str) and not value.isprintable() and key != "exception" else value
        for key, value in event.items()
    }
