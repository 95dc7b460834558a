"""Accounts at the command line: what is added and changed, and what is shown of it."""

from __future__ import annotations

import json

from tests.support.command_line import Companion, companion

__all__ = ["companion"]


def test_accounts_from_adding_to_disabling(companion: Companion) -> None:
    """An account is added with a password from standard input, listed without its hash, changed, disabled and enabled."""
    added = companion(
        "accounts",
        "add",
        "alice",
        "--kind",
        "user",
        "--expires",
        "2030-01-01T00:00:00Z",
        "--group",
        "night",
        "--group",
        "day",
        "--tenant",
        "acme",
        "--password-file",
        "-",
        typed="pw\n",
    )
    assert (added.code, added.output) == (0, "added user alice\n")
    assert (
        companion("accounts", "passwd", "alice", "--password-file", "-", typed="other").output
        == "changed the password of alice\n"
    )
    assert companion("accounts", "disable", "alice").output == "disabled alice\n"
    (listed,) = json.loads(companion("accounts", "list", "--json").output)
    assert listed == {
        "username": "alice",
        "kind": "user",
        "principal": "alice",
        "disabled": True,
        "expires_at": 1893456000,
        "groups": ["night", "day"],
        "tenant": "acme",
    }
    assert companion("accounts", "assign", "alice", "--group", "west").output == "alice is in west, of no tenant\n"
    (listed,) = json.loads(companion("accounts", "list", "--json").output)
    assert (listed["groups"], listed["tenant"]) == (["west"], "")
    assert companion("accounts", "enable", "alice").code == 0
    table = companion("accounts", "list").output
    assert "alice" in table
    assert "enabled" in table
    assert "$2b$" not in table


def test_an_account_is_added_once(companion: Companion) -> None:
    """A user name that exists is refused."""
    assert companion("accounts", "add", "a", "--password-file", "-", typed="pw").code == 0
    assert (
        "a user name that does not exist yet"
        in companion("accounts", "add", "a", "--password-file", "-", typed="pw").problem
    )


def test_attributes_and_superusers(companion: Companion) -> None:
    """They are given at the beginning or later, as a whole, and shown in the list."""

    def shown() -> tuple[dict[str, str], bool]:
        (account,) = json.loads(companion("accounts", "list", "--json").output)
        return account.get("attributes", {}), account.get("superuser", False)

    options = ("--attribute", "tenant=t=1", "--attribute", "b=2", "--superuser")
    companion("accounts", "add", "alice", "--password-file", "-", *options, typed="x")
    assert shown() == ({"tenant": "t=1", "b": "2"}, True)
    assert companion("accounts", "set", "alice", "--attribute", "c=3").output == "changed alice\n"
    assert shown() == ({"c": "3"}, True)
    companion("accounts", "set", "alice", "--attribute", "-", "--no-superuser")
    assert shown() == ({}, False)
    assert "at least one" in companion("accounts", "set", "alice").problem
    for wrong in ("x", "=1", "a=", "a=\n"):
        assert "--attribute" in companion("accounts", "set", "alice", "--attribute", wrong).problem
    assert "bob" in companion("accounts", "set", "bob", "--superuser").problem


def test_a_title_counts_one_as_one(companion: Companion) -> None:
    """One row has a noun in the singular, none and several have it in the plural."""

    def titles() -> list[str]:
        lists = ("accounts", "rules", "revoke")
        return [companion(name, "list").output.splitlines()[0].strip() for name in lists]

    assert titles() == ["0 accounts", "0 rules", "0 revocations"]
    for count, expected in (
        (1, ["1 account", "1 rule", "1 revocation"]),
        (2, ["2 accounts", "2 rules", "2 revocations"]),
    ):
        name = f"user-{count}"
        assert companion("accounts", "add", name, "--password-file", "-", typed="x").code == 0
        assert companion("rules", "add", "--account", name, "allow", "publish", "a/#").code == 0
        assert companion("revoke", "account", name).code == 0
        assert titles() == expected
