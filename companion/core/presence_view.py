"""Presence as it is asked for and shown, the same at the command line and over HTTP. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.moments import iso
from companion.core.presence import Present

FIELDS: Final = ("principal", "client", "state", "after", "limit")
MOST: Final = 1000
_STATES: Final = {"online": True, "offline": False, "any": None}


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to see."""

    principal: str | None
    client_id: str | None
    online: bool | None
    after: str
    limit: int


def asked(fields: Mapping[str, str | None]) -> Asked:
    """Read a request; what is missing or empty asks for all. Raises `Invalid`."""
    for name, value in fields.items():
        if name not in FIELDS:
            raise Invalid(name, value, f"the fields are {', '.join(FIELDS)}")
    state, limit = fields.get("state") or "any", fields.get("limit") or "100"
    if state not in _STATES:
        raise Invalid("state", state, f"one of {', '.join(_STATES)}")
    if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= MOST):
        raise Invalid("limit", limit, f"a number from 1 to {MOST}")
    return Asked(
        fields.get("principal") or None,
        fields.get("client") or None,
        _STATES[state],
        fields.get("after") or "",
        int(limit),
    )


def shown(present: Sequence[Present]) -> list[dict[str, Any]]:
    """Return them as JSON values; times are ISO 8601 in UTC, null where nobody told."""
    return [
        {
            "client_id": one.client_id,
            "principal": one.principal,
            "username": one.username,
            "online": one.online,
            "connected_at": iso(one.connected_at) if one.connected_at else None,
            "disconnected_at": None if one.disconnected_at is None else iso(one.disconnected_at),
            "reason": one.reason,
            "peer": one.peer,
            "node": one.node,
            "protocol": one.protocol,
            "keepalive": one.keepalive,
            "clean_start": one.clean_start,
        }
        for one in present
    ]
