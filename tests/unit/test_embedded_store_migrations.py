"""The schema of the embedded store: made once, brought up to date, and left alone when it is newer."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from companion.core.errors import Permanent
from companion.core.stats import Counting
from companion.stores.embedded import EmbeddedStore, migrations
from companion.stores.embedded.store import FILE_NAME
from tests.support.embedded_store import query, refused
from tests.support.entities import account, audit


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """What a newer release wrote is left alone, and one line says what to do."""
    async with EmbeddedStore.open(tmp_path) as store:
        await store.accounts.add([account("alice")])
    query(tmp_path, "PRAGMA user_version = 99")
    assert await refused(tmp_path, Permanent) == (
        f"the data was written by a newer release (schema 99; this one knows {len(migrations.MIGRATIONS)}): upgrade this one"
    )
    assert query(tmp_path, "PRAGMA user_version") == [(99,)]
    assert query(tmp_path, "SELECT username FROM accounts") == [("alice",)]


async def test_a_newer_release_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of an older schema is migrated by the steps that it lacks, and kept."""
    async with EmbeddedStore.open(tmp_path) as store:
        await store.accounts.add([account("alice")])
    steps = (*migrations.MIGRATIONS, ("CREATE TABLE novelty (x INTEGER)", "INSERT INTO novelty VALUES (1)"))
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    for _ in range(2):
        async with EmbeddedStore.open(tmp_path) as store:
            assert await store.accounts.get("alice") == account("alice")
    assert query(tmp_path, "SELECT x FROM novelty") == [(1,)]
    assert query(tmp_path, "PRAGMA user_version") == [(len(steps),)]


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is taken as a whole or not at all, and the next start can try again."""
    async with EmbeddedStore.open(tmp_path):
        pass
    broken = (*migrations.MIGRATIONS, ("CREATE TABLE novelty (x INTEGER)", "INSERT INTO nowhere VALUES (1)"))
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "MIGRATIONS", broken)
        assert "nowhere" in await refused(tmp_path, Permanent)
    async with EmbeddedStore.open(tmp_path) as store:
        assert await store.troubles() == {"sqlite": None}
    assert query(tmp_path, "SELECT count(*) FROM sqlite_schema WHERE name = 'novelty'") == [(0,)]


async def test_audit_records_of_an_earlier_release(tmp_path: Path) -> None:
    """They are there after the upgrade that numbers them for good, and the next ones follow on them."""
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    for step in migrations.MIGRATIONS[:3]:
        for statement in step:
            connection.execute(statement)
    columns = "at, kind, verdict, reason, username, client_id, peer_host, action, topic, rule, detail"
    for number in (1, 2):
        values = (number, "auth", "deny", "no_rule", "u", "", "", "", "", "", "")
        connection.execute(f"INSERT INTO audits ({columns}) VALUES ({', '.join('?' * 11)})", values)  # noqa: S608 - ours
    connection.execute("PRAGMA user_version = 3")
    connection.commit()
    connection.close()
    async with EmbeddedStore.open(tmp_path) as store:
        await store.audits.append([audit(3)])
        assert [one.at for one in await store.audits.latest(10)] == [3, 2, 1]
        source = store.observed(Counting(decisions=True))[1]
        assert [one.position for one in await source.read(10)] == ["1", "2", "3"]
