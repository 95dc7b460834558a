"""Events of change streams as changes of entities. Pure.

A soft delete and a restore are updates of `deleted_at`; they become `delete` and `restore`. Documents become JSON: ids as 24 hex
digits, dates as ISO 8601 in UTC, decimals as text, binaries as base64.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from bson import Regex, Timestamp
from bson.datetime_ms import DatetimeMS

from companion.core.model import Change, ChangeOp
from companion.core.moments import iso_of

Event = Mapping[str, Any]

_OPS: Final = {
    "insert": ChangeOp.CREATE,
    "replace": ChangeOp.UPDATE,
    "update": ChangeOp.UPDATE,
    "delete": ChangeOp.DESTROY,
}
_DELETED: Final = "deleted_at"


def event_id_of(token: Mapping[str, Any]) -> str:
    """Return the event id: the same for the same event, however often and by whomever it is read."""
    return "m-" + hashlib.blake2b(str(token["_data"]).encode(), digest_size=16).hexdigest()


def milliseconds_of(event: Event) -> int:
    """Return when it happened in Unix milliseconds: the server's wall clock (MongoDB 6), before that its cluster time."""
    wall = event.get("wallTime")
    if isinstance(wall, DatetimeMS):
        return int(wall)
    if isinstance(wall, dt.datetime):
        return int(wall.timestamp() * 1000)
    cluster = event.get("clusterTime")
    return cluster.time * 1000 if isinstance(cluster, Timestamp) else 0


def change_of(event: Event) -> Change | None:
    """Return the change; None for an event that changes no entity (a collection is made, dropped, renamed)."""
    op = _OPS.get(event["operationType"])
    if op is None:
        return None
    before, after = event.get("fullDocumentBeforeChange"), event.get("fullDocument")
    if op is ChangeOp.UPDATE:
        op = _derived(event, before, after)
    return Change(
        event_id=event_id_of(event["_id"]),
        op=op,
        db=event["ns"]["db"],
        collection=event["ns"]["coll"],
        id=id_of(event["documentKey"]["_id"]),
        at=milliseconds_of(event),
        before=None if before is None else json_of(before),
        after=None if after is None else json_of(after),
    )


def _derived(event: Event, before: Event | None, after: Event | None) -> ChangeOp:
    """Tell whether an update deleted or restored: by what it set, else by what stood there before."""
    description = event.get("updateDescription") or {}
    updated = description.get("updatedFields") or {}
    if _DELETED in updated:
        return ChangeOp.RESTORE if updated[_DELETED] is None else ChangeOp.DELETE
    if _DELETED in (description.get("removedFields") or ()):
        return ChangeOp.RESTORE
    if event["operationType"] == "replace" and before is not None and after is not None:
        was, is_now = before.get(_DELETED) is not None, after.get(_DELETED) is not None
        if was != is_now:
            return ChangeOp.DELETE if is_now else ChangeOp.RESTORE
    return ChangeOp.UPDATE


def id_of(value: object) -> str:
    """Return an `_id` as text; what is neither an ObjectId nor text is written as in JSON."""
    return value if isinstance(value, str) else str(json_of(value))


def json_of(value: Any) -> Any:  # noqa: ANN401 - any BSON becomes any JSON
    """Return a BSON value as JSON."""
    if isinstance(value, Mapping):
        return {str(name): json_of(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_of(one) for one in value]
    if value is None or isinstance(value, bool | str):
        return value
    for kind, convert in _PLAIN:
        if isinstance(value, kind):
            return convert(value)
    return str(value)


_PLAIN: Final[tuple[tuple[type, Callable[[Any], object]], ...]] = (
    (int, int),  # also Int64
    (float, lambda value: value if math.isfinite(value) else None),
    (dt.datetime, iso_of),
    (DatetimeMS, int),
    (Timestamp, lambda value: value.time * 1000),
    (bytes, lambda value: base64.b64encode(value).decode()),  # also Binary
    (Regex, lambda value: str(value.pattern)),
)
