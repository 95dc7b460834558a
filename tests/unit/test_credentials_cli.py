"""What an account shows to be let in, at the command line: certificates, further secrets, keys for SCRAM, long-lived tokens."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from companion.core.scram import ScramKeys, keys_in, scram_keys
from companion.stores.embedded import EmbeddedStore
from tests.support.client_certs import client_certificate
from tests.support.command_line import Companion, companion

__all__ = ["companion"]


def test_certificates_of_an_account(companion: Companion, tmp_path: Path) -> None:
    """Pins are given at the beginning or later; a file stands for its fingerprint."""
    certificate = client_certificate("device-1")
    (tmp_path / "client.pem").write_text(certificate.pem)
    companion("accounts", "add", "alice", "--password-file", "-", "--certificate", "cn:device-1", typed="x")
    changed = companion("accounts", "set", "alice", "--certificate", f"file:{tmp_path}/client.pem")
    assert changed.code == 0
    (account,) = json.loads(companion("accounts", "list", "--json").output)
    assert account["certificates"] == [f"sha256:{certificate.fingerprint}"]
    companion("accounts", "set", "alice", "--certificate", "-")
    assert "certificates" not in json.loads(companion("accounts", "list", "--json").output)[0]
    for wrong in ("device-1", "sha256:ab", "file:/nowhere"):
        assert "certificate" in companion("accounts", "set", "alice", "--certificate", wrong).problem


def test_further_secrets(companion: Companion) -> None:
    """One is added, listed with its state, and taken away; the secret itself is shown nowhere."""
    companion("accounts", "add", "alice", "--password-file", "-", typed="first")
    added = companion(
        *("accounts", "secrets", "add", "alice", "--password-file", "-", "--not-after", "2020-01-01T00:00:00Z"),
        typed="second",
    )
    secret_id = added.output.split()[2]
    companion("accounts", "secrets", "add", "alice", "--password-file", "-", "--not-before", "99999999999", typed="x")
    listed = json.loads(companion("accounts", "secrets", "list", "alice", "--json").output)
    assert [(one["id"] == secret_id, one["state"], one["last_used"]) for one in listed] == [
        (False, "good", None),
        (True, "expired", None),
        (False, "not yet", None),
    ]
    table = companion("accounts", "secrets", "list", "alice").output
    assert "2020-01-01T00:00:00+00:00" in table
    assert "second" not in table + added.output
    assert companion("accounts", "secrets", "remove", "alice", secret_id).code == 0
    assert len(json.loads(companion("accounts", "secrets", "list", "alice", "--json").output)) == 2
    assert "id: " in companion("accounts", "secrets", "remove", "alice", secret_id).problem
    for arguments in (("list", "bob"), ("remove", "bob", "x"), ("add", "bob", "--password-file", "-")):
        assert "bob" in companion("accounts", "secrets", *arguments, typed="x").problem
    wrong_times = ("--not-before", "10", "--not-after", "10", "--password-file", "-")
    assert "--not-after" in companion("accounts", "secrets", "add", "alice", *wrong_times, typed="x").problem
    for _ in range(3):
        assert companion("accounts", "secrets", "add", "alice", "--password-file", "-", typed="x").code == 0
    assert "at most 4" in companion("accounts", "secrets", "add", "alice", "--password-file", "-", typed="x").problem


def test_what_is_kept_for_scram(companion: Companion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is on, a new password is kept for it too; where it is off, a new one takes away what was kept."""

    async def kept() -> ScramKeys | None:
        async with EmbeddedStore.open(tmp_path / "data") as store:
            account = await store.accounts.get("alice")
        assert account is not None
        return keys_in(account.scram)

    monkeypatch.setenv("COMPANION_SCRAM_ALGORITHM", "sha512")
    companion("accounts", "add", "alice", "--password-file", "-", typed="first")
    for password in ("first", "second"):
        keys = asyncio.run(kept())
        assert keys is not None
        assert scram_keys(password, "sha512", 4096, keys.salt) == keys
        companion("accounts", "passwd", "alice", "--password-file", "-", typed="second")
    assert "RFC 4013" in companion("accounts", "passwd", "alice", "--password-file", "-", typed="\a").problem
    monkeypatch.setenv("COMPANION_SCRAM_ALGORITHM", "none")
    companion("accounts", "passwd", "alice", "--password-file", "-", typed="third")
    assert asyncio.run(kept()) is None


def test_long_lived_tokens(companion: Companion, tmp_path: Path) -> None:
    """One is made and shown once, listed without itself, and taken back; its digest alone is kept."""
    made = companion("tokens", "add", "alice", "--name", "a gateway", "--scope", "publish", "--address", "10.0.0.0/8")
    token = made.output.strip()
    assert token.startswith("apt_")
    assert "not shown again" in made.errors
    assert token not in made.errors
    companion("tokens", "add", "bob", "--expires", "2030-01-01T00:00:00Z")
    (listed,) = json.loads(companion("tokens", "list", "--username", "alice", "--json").output)
    assert listed["id"] == token.split("_")[1]
    assert (listed["scopes"], listed["addresses"], listed["last_used"]) == (["publish"], ["10.0.0.0/8"], None)
    table = companion("tokens", "list").output
    assert "2 tokens" in table
    assert "2030-01-01T00:00:00+00:00" in table
    secret = token.split("_", 2)[2]
    assert secret not in table
    assert all(secret.encode() not in file.read_bytes() for file in (tmp_path / "data").iterdir())
    assert companion("tokens", "revoke", listed["id"]).output == f"revoked token {listed['id']}\n"
    assert "id: " in companion("tokens", "revoke", listed["id"]).problem
    for wrong in (("--scope", "all"), ("--address", "10.0.0.1/8"), ("--expires", "soon"), ("--name", "\n")):
        assert wrong[1].strip() in companion("tokens", "add", "alice", *wrong).problem
