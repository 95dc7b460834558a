"""Changes that are none: refused as a whole, with the path to the first mistake."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.bad_bodies import SECRET
from tests.support.bad_input import GOOD, post_changes, service
from tests.support.service import Service

__all__ = ["service"]


def _changed(**fields: Any) -> dict[str, Any]:
    return GOOD | {"after": {"owner": "o1", "password": SECRET}} | fields


def _without(name: str) -> dict[str, Any]:
    return {field: value for field, value in _changed().items() if field != name}


def _after(**fields: Any) -> dict[str, Any]:
    return _changed(after={"owner": "o1", "password": SECRET} | fields)


SHORT_TEXT: dict[str, Any] = {
    "a number": 17,
    "true": True,
    "a list": ["d1"],
    "an object": {"id": "d1"},
    "empty": "",
    "too long": "x" * 257,
    "a NUL": "d\0",
    "a line break": "d\n1",
    "an escape": "\x1b[31m",
    "a line separator": "d\u2028",
    "a private character": "\ue000",
}


TIMES: dict[str, Any] = {
    "negative": -1,
    "a fraction": 1.5,
    "a whole fraction": 1000.0,
    "true": True,
    "text": "1000",
    "a list": [1000],
    "in nanoseconds": 1_700_000_000_000_000_000,
    "beyond the year 9999": 253_402_300_800_000,
}


OPS: dict[str, Any] = dict.fromkeys(("", "c", "UPDATE", "upsert", "update ")) | {
    "a number": 1,
    "true": True,
    "a list": ["update"],
    "an object": {"op": "update"},
}


NO_OBJECT: dict[str, Any] = {"text": SECRET, "empty": "", "a number": 17, "false": False, "a list": [SECRET]}
NO_TEXT: dict[str, Any] = {"a number": 1, "true": True, "a list": ["o1"], "an object": {"id": "o1"}}
NO_LIST: dict[str, Any] = {"text": "p1", "a number": 7, "an object": {"p1": True}, "false": False}
NO_TEXT_IN_LIST: dict[str, Any] = {name: ["p1", bad] for name, bad in ({"null": None} | NO_TEXT).items()}
FEW_SHARES = [f"p{number}" for number in range(100)]


BAD_CHANGES: dict[str, dict[str, Any]] = {
    "op": {"missing": _without("op"), "null": _changed(op=None)}
    | {name: _changed(op=name if bad is None else bad) for name, bad in OPS.items()},
    **{
        field: {"missing": _without(field), "null": _changed(**{field: None})}
        | {name: _changed(**{field: bad}) for name, bad in SHORT_TEXT.items()}
        for field in ("db", "collection", "id")
    },
    "event_id": {name: _changed(event_id=bad) for name, bad in SHORT_TEXT.items()},
    "at": {name: _changed(at=bad) for name, bad in TIMES.items()},
    **{field: {name: _changed(**{field: bad}) for name, bad in NO_OBJECT.items()} for field in ("before", "after")},
    **{
        f"after.{field}": {name: _after(**{field: bad}) for name, bad in NO_TEXT.items()}
        for field in ("owner", "identity")
    },
    **{
        f"after.{field}": {name: _after(**{field: bad}) for name, bad in NO_LIST.items()}
        for field in ("shares", "clients", "groups")
    },
    **{
        f"after.{field}[1]": {name: _after(**{field: bad}) for name, bad in NO_TEXT_IN_LIST.items()}
        for field in ("shares", "clients", "groups")
    },
    "before.shares[0]": {"null": _changed(before={"shares": [None]})},
    "password": {"an unknown field": _changed(password=SECRET)},
    "Op": {"a field in another case": _changed(Op="update")},
    "": {"a field with an empty name": _changed(**{"": 1})},
    "x" * 80: {"a field with a long name": _changed(**{"x" * 5000: 1})},
    "[1].op": {"the second one": [_changed(), _changed(op="x")]},
    "[7].after.shares[1]": {"the eighth one": [_changed()] * 7 + [_after(shares=["a", 1])]},
    "[0]": {"a list in the list": [[_changed()]]},
    "body": {"a batch that is too long": [_changed()] * 1001},
    "topics": {
        "100,000 shares": _after(shares=[f"p{number}" for number in range(100_000)]),
        "shares times clients": _after(shares=FEW_SHARES, clients=FEW_SHARES),
    },
    "topic": {"an owner that makes no topic": _after(owner="x" * 66_000)},
}
"""By the field that is wrong."""


@pytest.mark.parametrize("field", BAD_CHANGES)
async def test_changes_that_are_none(service: Service, field: str) -> None:
    """A change that is wrong is refused as a whole, with its batch: 422, and the path to the first mistake."""
    for name, content in BAD_CHANGES[field].items():
        status, error = await post_changes(service, json.dumps(content).encode())
        assert (name, status, error["field"]) == (name, 422, field)
    refused = await service.metric("companion_changes_taken_total", outcome="rejected")
    assert refused == len(BAD_CHANGES[field])
    assert await service.store.inbox.backlog(0) == 0
