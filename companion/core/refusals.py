"""Refused clients: audit records of refusals, put together by who was refused and why. Pure."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.model import Audit
from companion.core.moments import iso

_AGO: Final = re.compile(r"(\d{1,6})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Who was refused, why, how often, and when first and last (Unix milliseconds), as far as the records reach."""

    username: str
    client_id: str
    peer_host: str
    kind: str
    reason: str
    topic: str
    rule: str
    count: int
    first: int
    last: int


def refusals(audits: Iterable[Audit]) -> Sequence[Refusal]:
    """Return them, the last first; `audits` come the newest first."""
    found: dict[tuple[str, ...], Refusal] = {}
    for one in audits:
        key = (one.username, one.client_id, one.peer_host, one.kind, one.reason, one.topic, one.rule)
        known = found.get(key)
        found[key] = (
            Refusal(*key, 1, one.at, one.at)
            if known is None
            else replace(known, count=known.count + 1, first=min(known.first, one.at), last=max(known.last, one.at))
        )
    return sorted(found.values(), key=lambda one: -one.last)


def since(text: str, now: float) -> int:
    """Read a time such as `2026-01-31T12:00:00Z`, or a time ago such as `90m`, as Unix milliseconds. Raises `Invalid`."""
    if match := _AGO.fullmatch(text):
        return int((now - int(match[1]) * _SECONDS[match[2]]) * 1000)
    try:
        moment = dt.datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Invalid(
            "--since", text, "a time such as 2026-01-31T12:00:00Z, or how long ago, such as 30m, 12h, 7d"
        ) from None


def shown(found: Iterable[Refusal]) -> list[dict[str, Any]]:
    """Return them as JSON values; times are ISO 8601 in UTC."""
    return [
        {
            "username": one.username,
            "client_id": one.client_id,
            "peer_host": one.peer_host,
            "hook": one.kind,
            "reason": one.reason,
            "topic": one.topic,
            "rule": one.rule,
            "count": one.count,
            "first": iso(one.first),
            "last": iso(one.last),
        }
        for one in found
    ]
