"""The audit at the command line: what commands record, and whether it is what it was."""

from __future__ import annotations

import asyncio
import getpass
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import structlog

from companion.core.chain import Chain
from companion.core.errors import Transient
from companion.core.model import Audit
from companion.spool import Spool
from companion.stores.embedded import EmbeddedStore
from companion.stores.embedded.audits import EmbeddedAudits
from tests.support.command_line import Companion, companion
from tests.support.entities import audit
from tests.unit.test_auditor import execute, run, work_of

__all__ = ["companion"]

NOW = int(time.time() * 1000)


def records(data: Path) -> Sequence[Audit]:
    async def read() -> Sequence[Audit]:
        async with EmbeddedStore.open(data) as store:
            return (await store.audits.latest(100))[::-1]

    return asyncio.run(read())


def test_changes_are_recorded(companion: Companion, tmp_path: Path) -> None:
    """Every change of an account or a rule is recorded with who asked for it; what changed nothing is not, and no secret is."""
    companion("accounts", "add", "alice", "--kind", "user", "--password-file", "-", typed="sesame")
    companion("accounts", "passwd", "alice", "--password-file", "-", typed="sesame2")
    companion("accounts", "disable", "alice")
    companion("accounts", "enable", "alice")
    companion("accounts", "disable", "nobody")
    companion("rules", "add", "allow", "publish", "t/#", "--account", "alice")
    companion("rules", "remove", "1")
    companion("rules", "remove", "1")
    found = records(tmp_path / "data")
    assert [(one.reason, one.username, one.rule, one.detail) for one in found] == [
        ("account_added", "alice", "", "user"),
        ("account_password_changed", "alice", "", ""),
        ("account_disabled", "alice", "", ""),
        ("account_enabled", "alice", "", ""),
        ("rule_added", "alice", "1", "allow publish t/#"),
        ("rule_removed", "", "1", ""),
    ]
    assert all((one.kind, one.verdict) == ("command", "done") for one in found)
    assert all(one.source.startswith(f"command by {getpass.getuser()} on ") for one in found)
    assert "sesame" not in repr(found)
    checked = companion("audit", "verify")
    assert (checked.code, checked.output.splitlines()[0]) == (0, "6 records checked against 0 seals")


def test_an_audit_that_is_away(companion: Companion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be recorded in the store is recorded on the disk; where that is not possible either the command says so."""

    async def away(*_: object) -> None:
        raise Transient("store: away")

    monkeypatch.setattr(EmbeddedAudits, "keep", away)
    assert companion("accounts", "add", "alice", "--password-file", "-", typed="sesame").code == 0
    (left,) = Spool(tmp_path / "data" / "spool", 0).abandoned()
    assert not left.waiting
    for one in Spool(tmp_path / "data" / "spool", 0).abandoned():
        assert [entry.audit.reason for entry in one.next(10)] == ["account_added"]
    monkeypatch.setenv("COMPANION_AUDIT_SPOOL_BYTES", "0")
    assert companion("accounts", "disable", "alice").problem == ("companion: it is done, but not recorded: store: away")


def test_verify(companion: Companion, tmp_path: Path) -> None:
    """Sealed and intact it says so; what was done to it is shown, and the command fails with one line."""
    data = tmp_path / "data"

    async def sealed(deed: str = "") -> None:
        async with EmbeddedStore.open(data) as store:
            if deed:
                await execute(store, deed)
                return
            await store.audits.keep(Chain().seal([audit(NOW + number, username="alice") for number in range(10)]))
            with structlog.testing.capture_logs():
                await run(work_of(store, data, "one"))
            await store.audits.append([audit(NOW)])

    asyncio.run(sealed())
    ended = companion("audit", "verify")
    assert ended.code == 0
    lines = ended.output.splitlines()
    assert lines[:2] == ["11 records checked against 1 seal", "1 not sealed yet"]
    assert lines[3] == f"1 root in {data / 'audit-roots.jsonl'}"
    asyncio.run(sealed("UPDATE audits SET username = 'bob' WHERE number = 3"))
    asyncio.run(sealed("DELETE FROM audits WHERE number = 7"))
    ended = companion("audit", "verify")
    assert (ended.code, ended.errors) == (1, "companion: 2 problems in the audit\n")
    assert "it was altered: username" in ended.output
    assert "it is missing" in ended.output
    found = json.loads(companion("audit", "verify", "--json").output)
    assert found["counts"] == {"checked": 10, "unsealed": 1, "problems": 2}
    assert [one["where"].partition(":")[2] for one in found["problems"]] == ["3", "7"]
