"""From the body of `POST /changes` to changes, checked field by field."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.model import Change, ChangeOp, Document

_FIELDS: Final = frozenset({"event_id", "op", "db", "collection", "id", "at", "before", "after"})
_NAME_CHARACTERS: Final = 256
_LATEST_MS: Final = 253_402_300_799_999  # the last millisecond of the year 9999
_OPS: Final = {op.value: op for op in ChangeOp}


def parse_changes(content: object, max_batch: int) -> Sequence[Change]:
    """Return the changes in a decoded body: one object, or a list of 1 to `max_batch` objects.

    Raises `Invalid` naming the first wrong field, such as `[3].after.shares[1]`. A change without an event id gets one; without
    `at`, the time of now.
    """
    if not isinstance(content, list):
        return (_change(content, ""),)
    if not 1 <= len(content) <= max_batch:
        raise Invalid("body", f"a list of {len(content)}", f"one change, or a list of 1 to {max_batch}")
    return tuple(_change(item, f"[{index}]") for index, item in enumerate(content))


def _change(item: object, path: str) -> Change:
    if not isinstance(item, dict):
        raise Invalid(path or "body", item, "a change is a JSON object")
    prefix = f"{path}." if path else ""
    for name in item:
        if name not in _FIELDS:
            raise Invalid(f"{prefix}{name[:80]}", "this field", f"the fields are {', '.join(sorted(_FIELDS))}")
    return Change(
        event_id=uuid.uuid4().hex if item.get("event_id") is None else _name(item, "event_id", prefix),
        op=_op(item, prefix),
        db=_name(item, "db", prefix),
        collection=_name(item, "collection", prefix),
        id=_name(item, "id", prefix),
        at=_at(item, prefix),
        before=_document(item, "before", prefix),
        after=_document(item, "after", prefix),
    )


def _op(item: Mapping[str, Any], prefix: str) -> ChangeOp:
    value = item.get("op")
    if not isinstance(value, str) or value not in _OPS:
        raise Invalid(f"{prefix}op", value, f"one of {', '.join(_OPS)}")
    return _OPS[value]


def _name(item: Mapping[str, Any], field: str, prefix: str) -> str:
    value = item.get(field)
    if not isinstance(value, str) or not 1 <= len(value) <= _NAME_CHARACTERS or not value.isprintable():
        raise Invalid(f"{prefix}{field}", value, f"a string of 1 to {_NAME_CHARACTERS} printable characters")
    return value


def _at(item: Mapping[str, Any], prefix: str) -> int:
    value = item.get("at")
    if value is None:
        return int(time.time() * 1000)
    if type(value) is not int or not 0 <= value <= _LATEST_MS:
        raise Invalid(f"{prefix}at", value, "Unix time in milliseconds, a whole number")
    return value


def _document(item: Mapping[str, Any], field: str, prefix: str) -> Document | None:
    value = item.get(field)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise Invalid(f"{prefix}{field}", value, "a JSON object, or null")
    for name in ("owner", "identity"):
        if value.get(name) is not None and not isinstance(value[name], str):
            raise Invalid(f"{prefix}{field}.{name}", value[name], "a string, or null")
    for name in ("shares", "clients", "groups"):
        listed = value.get(name)
        if listed is None:
            continue
        if not isinstance(listed, list):
            raise Invalid(f"{prefix}{field}.{name}", listed, "a list of strings, or null")
        for index, entry in enumerate(listed):
            if not isinstance(entry, str):
                raise Invalid(f"{prefix}{field}.{name}[{index}]", entry, "a string")
    return value
