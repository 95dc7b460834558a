"""Accounts from a file, at the command line: all of them or none."""

from __future__ import annotations

import json
from pathlib import Path

import bcrypt
import pytest

from tests.support.command_line import Companion, companion

__all__ = ["companion"]

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
ADA = {
    "username": "ada",
    "kind": "user",
    "principal": "p1",
    "disabled": True,
    "expires_at": 1893456000,
    "groups": ["night", "day"],
    "tenant": "acme",
}


@pytest.mark.parametrize(
    "content",
    [
        (
            f"username,password_hash,kind,principal,disabled,expires_at,groups,tenant\n"
            f"ada,{HASH},user,p1,true,2030-01-01T00:00:00+00:00,night; day,acme\nbob,{HASH},,,,,,\n"
        ),
        json.dumps(
            [
                {"password_hash": HASH, **ADA},
                {"user_id": "bob", "password_hash": HASH, "is_superuser": False, "salt": ""},
            ]
        ),
        "\n".join(
            [
                json.dumps(
                    {**ADA, "password_hash": HASH, "disabled": "1", "expires_at": "1893456000", "groups": "night;day"}
                ),
                "",
                json.dumps({"username": "bob", "password_hash": HASH, "kind": None}),
            ]
        ),
    ],
    ids=["csv", "json", "json lines"],
)
def test_an_import(companion: Companion, tmp_path: Path, content: str) -> None:
    """CSV, a JSON list and JSON lines give the same accounts; EMQX's names of columns are understood."""
    file = tmp_path / "accounts"
    file.write_text(content)
    assert companion("accounts", "import", str(file)).output == "imported 2 accounts\n"
    ada, bob = json.loads(companion("accounts", "list", "--json").output)
    assert ada == ADA
    assert bob == {
        "username": "bob",
        "kind": "device",
        "principal": "bob",
        "disabled": False,
        "expires_at": None,
        "groups": [],
        "tenant": "",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "at least one account"),
        ("username,password_hash\n", "at least one account"),
        ("username,password_hash\nada,plain\n", "line 2: password_hash: '***' is not allowed"),
        (f"username,password_hash\nada,{HASH.replace('$04$', '$20$')}\n", "password_max_cost (14)"),
        (
            f"username,password_hash\nada,{HASH}\nada,{HASH}\n",
            "line 3: username: 'ada' is not allowed; each user name once",
        ),
        (f"username,pasword_hash\nada,{HASH}\n", "line 2: pasword_hash"),
        (
            f"username,password_hash,kind\nada,{HASH},king\n",
            "line 2: kind: 'king' is not allowed; one of device, user, service",
        ),
        (f"username,password_hash,disabled\nada,{HASH},maybe\n", "line 2: disabled: 'maybe'"),
        (f"username,password_hash,expires_at\nada,{HASH},soon\n", "line 2: expires_at: 'soon'"),
        ("username,password_hash\nada\n", "as many columns as the header has"),
        ('username,password_hash\n"ada,x\n', "valid CSV"),
        ("[1]", "row 1"),
        ("[{]", "valid JSON"),
        ('{"username": "ada"\n', "line 1"),
        ('[{"username": ["ada"]}]', "row 1: username"),
        (f'[{{"username": "ada", "password_hash": "{HASH}", "groups": [7]}}]', "row 1: groups"),
        (f'[{{"username": "ada", "password_hash": "{HASH}", "groups": {{"a": 1}}}}]', "row 1: groups"),
    ],
)
def test_an_import_is_all_or_nothing(companion: Companion, tmp_path: Path, content: str, said: str) -> None:
    """The first mistake in a file is named with its row, no hash is repeated, and nothing is imported."""
    file = tmp_path / "accounts"
    file.write_text(content)
    problem = companion("accounts", "import", str(file)).problem
    assert said in problem
    assert HASH not in problem
    assert json.loads(companion("accounts", "list", "--json").output) == []


def test_an_import_of_something_known(companion: Companion, tmp_path: Path) -> None:
    """One account that exists already keeps the whole file out."""
    companion("accounts", "add", "bob", "--password-file", "-", typed="pw")
    file = tmp_path / "accounts"
    file.write_text(f"username,password_hash\nada,{HASH}\nbob,{HASH}\n")
    assert "'bob'" in companion("accounts", "import", str(file)).problem
    assert [account["username"] for account in json.loads(companion("accounts", "list", "--json").output)] == ["bob"]
