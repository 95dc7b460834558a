"""Short ways to what the stores keep."""

from __future__ import annotations

from typing import Any

from companion.core.model import Account, Audit, Change, ChangeOp, Kind, Session

HOSTILE: tuple[str, ...] = (
    "alice",
    "Alice",
    "alice ",
    " alice",
    "alice%",
    "a_ice",
    "älice",
    "a\u0308lice",
    "'; DROP TABLE accounts; --",
    '"quoted" \\ and /slashed/',
    "${username}",
    "+",
    "#",
    "0",
    "00",
    "1e3",
    "null",
    "\u202eecila",
    "🦔" * 50,
    "x" * 5000,
)
"""Names that a store could confuse, cut, fold or understand as something else."""


def account(username: str, **fields: Any) -> Account:
    """Return an account whose hash is no real one: a store does not look inside."""
    return Account(**{"username": username, "kind": Kind.DEVICE, "principal": "p", "password_hash": "hash"} | fields)


def session(username: str = "u", client_id: str = "s:1", *, expires_at: int = 1000, **fields: Any) -> Session:
    """Return a platform session."""
    names = {"username": username, "client_id": client_id, "principal": username, "session": "s"}
    return Session(**names | {"expires_at": expires_at} | fields)


def change(event_id: str, **fields: Any) -> Change:
    """Return an update of a device."""
    place: dict[str, Any] = {"op": ChangeOp.UPDATE, "db": "thing", "collection": "devices", "id": "d1", "at": 1000}
    return Change(**{"event_id": event_id} | place | fields)


def changes(prefix: str, count: int, **fields: Any) -> list[Change]:
    """Return changes with the event ids `prefix-0`, `prefix-1` and so on."""
    return [change(f"{prefix}-{number}", **fields) for number in range(count)]


def audit(at: int = 1000, **fields: Any) -> Audit:
    """Return the record of a refused login."""
    decision: dict[str, Any] = {"kind": "auth", "verdict": "deny", "reason": "wrong_password"}
    return Audit(at, **decision | fields)
