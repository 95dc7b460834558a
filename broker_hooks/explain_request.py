"""What is to be explained, as people and programs ask for it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.model import Access, Action

_FIELDS: Final = ("username", "clientid", "action", "topic", "qos", "retain", "peerhost", "at")
_LATEST: Final = 253_402_300_799
"""The last second of the year 9999."""


def asked(body: object) -> tuple[Access, float | None]:
    """Return the request of an object, and the time it is about (Unix seconds; None for now). Raises `Invalid`."""
    if not isinstance(body, Mapping):
        raise Invalid("body", type(body).__name__, f"an object with {', '.join(_FIELDS)}")
    for name in body:
        if name not in _FIELDS:
            raise Invalid(name, "this field", f"the fields are {', '.join(_FIELDS)}")
    texts = {name: _text(body, name) for name in ("username", "clientid", "action", "topic", "peerhost")}
    if texts["action"] not in list(Action):
        raise Invalid("action", texts["action"], f"one of {', '.join(Action)}")
    qos, retain = body.get("qos"), body.get("retain")
    if qos is not None and (type(qos) is not int or qos not in {0, 1, 2}):
        raise Invalid("qos", qos, "0, 1 or 2; none for not known")
    if retain is not None and not isinstance(retain, bool):
        raise Invalid("retain", retain, "true or false; none for not known")
    access = Access(
        Action(texts["action"]),
        texts["topic"],
        texts["clientid"],
        texts["username"],
        texts["peerhost"],
        qos,
        retain,
    )
    return access, moment(body.get("at"), "at")


def moment(value: object, field: str) -> float | None:
    """Return a time in Unix seconds, from such or from ISO 8601 with a zone; None for nothing. Raises `Invalid`."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            time = dt.datetime.fromisoformat(value)
        except ValueError:
            time = None
        if time is not None and time.tzinfo is not None and 0 <= time.timestamp() <= _LATEST:
            return time.timestamp()
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LATEST:
        return float(value)
    raise Invalid(field, value, "a time with a zone from 1970 to 9999, such as 2027-01-31T12:00:00Z, or Unix seconds")


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise Invalid(name, value, "a text")
    return value
