"""Moments as people and programs read them. Pure."""

from __future__ import annotations

import datetime as dt


def iso(at: int) -> str:
    """Return Unix milliseconds as ISO 8601 in UTC, such as `2026-01-31T12:00:00.000Z`."""
    return iso_of(dt.datetime.fromtimestamp(at / 1000, dt.UTC))


def iso_of(moment: dt.datetime) -> str:
    """Return a moment with a time zone in the same way."""
    return moment.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
