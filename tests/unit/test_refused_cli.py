"""Who was refused, at the command line."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from companion.core.errors import Invalid
from companion.core.refusals import since
from companion.stores.embedded import EmbeddedStore
from tests.support.command_line import Companion, companion
from tests.support.entities import audit

__all__ = ["companion"]

NOW = int(time.time() * 1000)


def test_refused(companion: Companion, tmp_path: Path) -> None:
    """Refusals are put together by who and why, the last first; those of others, and older ones, are left out when asked."""

    async def fill() -> None:
        async with EmbeddedStore.open(tmp_path / "data") as store:
            deny = {"client_id": "c1", "peer_host": "10.0.0.1"}
            await store.audits.append(
                [audit(NOW - 50_000 + number, username="alice", **deny) for number in range(3)]
                + [audit(NOW - 40_000, username="bob", reason="no_rule", kind="authz", topic="t/1", **deny)]
                + [audit(NOW - 30_000, username="carol", verdict="allow")]
                + [audit(NOW - 7_200_000, username="dave")]
            )

    asyncio.run(fill())
    found = json.loads(companion("refused", "--json").output)
    assert [(one["username"], one["count"], one["reason"], one["topic"]) for one in found] == [
        ("bob", 1, "no_rule", "t/1"),
        ("alice", 3, "wrong_password", ""),
        ("dave", 1, "wrong_password", ""),
    ]
    assert found[1]["first"] < found[1]["last"]
    assert len(json.loads(companion("refused", "--since", "1h", "--json").output)) == 2
    assert len(json.loads(companion("refused", "--username", "dave", "--json").output)) == 1
    table = companion("refused", "--limit", "1").output
    assert table.splitlines()[0].rstrip() == "1 refused"
    assert "bob" in table
    assert "companion: --since: 'soon' is not allowed" in companion("refused", "--since", "soon").problem


def test_since() -> None:
    """A time, or how long ago."""
    assert since("2m", 1000.0) == 880_000
    assert since("1970-01-02", 0.0) == 86_400_000
    assert since("1970-01-01T01:00:00+01:00", 0.0) == 0
    for text in ("", "1y", "1.5h", "2026-13-01"):
        with pytest.raises(Invalid):
            since(text, 0.0)
