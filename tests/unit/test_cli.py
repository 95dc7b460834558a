"""The command line, as a person types it: what it prints, what it refuses, and that an error is one line."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from companion.core.lockouts import Growth, Target
from companion.stores.embedded import EmbeddedStore
from tests.support.command_line import Companion, companion

__all__ = ["companion"]


@pytest.mark.parametrize(
    ("arguments", "typed", "said"),
    [
        (["accounts", "add", "a", "--password-file", "/nowhere"], "", "--password-file: '/nowhere'"),
        (["accounts", "add", "a"], "", "a file when there is no terminal to ask at"),
        (["accounts", "add", "a", "--password-file", "-"], "", "password: '***' is not allowed; 1 to 72 bytes"),
        (["accounts", "add", "a", "--password-file", "-"], "x" * 73, "password: '***' is not allowed; 1 to 72 bytes"),
        (["accounts", "add", "", "--password-file", "-"], "pw", "username: '' is not allowed"),
        (["accounts", "add", "a\nb", "--password-file", "-"], "pw", r"username: 'a\nb' is not allowed"),
        (["accounts", "add", "a", "--expires", "tomorrow", "--password-file", "-"], "pw", "--expires: 'tomorrow'"),
        (
            ["accounts", "add", "a", "--expires", "99999999999999", "--password-file", "-"],
            "pw",
            "before the year 10000",
        ),
        (["accounts", "add", "a", "--kind", "robot"], "", "'robot' is not one of"),
        (
            ["accounts", "passwd", "nobody", "--password-file", "-"],
            "pw",
            "username: 'nobody' is not allowed; an account that exists",
        ),
        (["accounts", "disable", "nobody"], "", "an account that exists"),
        (["accounts", "assign", "nobody"], "", "an account that exists"),
        (["accounts", "assign", "a", "--group", ""], "", "--group: '' is not allowed"),
        (
            ["accounts", "add", "a", "--tenant", "a\nb", "--password-file", "-"],
            "pw",
            r"--tenant: 'a\nb' is not allowed",
        ),
        (["accounts", "import", "/nowhere.csv"], "", "file: '/nowhere.csv'"),
        (
            ["rules", "add", "allow", "publish", "a/#/b", "--everyone"],
            "",
            "filter: 'a/#/b' is not allowed; # stands alone in the last level",
        ),
        (["rules", "add", "allow", "publish", "a/${nobody}", "--everyone"], "", "the placeholders are ${clientid}"),
        (["rules", "add", "allow", "publish", "$share/g/a", "--everyone"], "", "the filter itself"),
        (["rules", "add", "allow", "publish", "a"], "", "exactly one of them"),
        (["rules", "add", "allow", "publish", "a", "--everyone", "--kind", "user"], "", "exactly one of them"),
        (["rules", "add", "allow", "publish", "a", "--kind", "robot"], "", "subject: 'kind:robot' is not allowed"),
        (["rules", "add", "allow", "publish", "a", "--everyone", "--qos", "3"], "", "--qos: '3' is not allowed"),
        (
            ["rules", "add", "allow", "publish", "a", "--everyone", "--window", "0 8 * * *"],
            "",
            "--window: '0 8 * * *' is not allowed; CRON;SECONDS",
        ),
        (
            ["rules", "add", "allow", "publish", "a", "--everyone", "--window", "0 8 1 * 1;60"],
            "",
            "windows[0].cron: '0 8 1 * 1' is not allowed",
        ),
        (
            ["rules", "add", "allow", "publish", "a", "--everyone", "--location", "10.0.0.1/8"],
            "",
            "locations[0]: '10.0.0.1/8' is not allowed",
        ),
        (["rules", "add", "permit", "publish", "a", "--everyone"], "", "'permit' is not one of"),
        (["rules", "remove", "17"], "", "id: '17' is not allowed; a rule that exists"),
        (["change", "--file", "/nowhere.json"], "", "--file: '/nowhere.json'"),
        (
            ["change", "--url", "http://127.0.0.1:1", "--db", "d", "--collection", "c", "--id", "1"],
            "",
            "is companion serve running?",
        ),
        (["--config", "/nowhere.toml", "config"], "", "COMPANION_CONFIG: '/nowhere.toml'"),
        (["serve", "--role", "king"], "", "'king' is not one of"),
        (["dance"], "", "No such command"),
        (["accounts", "add"], "", "username"),
        (["accounts", "list", "--yaml"], "", "--yaml"),
    ],
)
def test_a_mistake_is_one_line(companion: Companion, arguments: list[str], typed: str, said: str) -> None:
    """Every mistake ends with a non-zero code and one line that says what is wrong and what is allowed."""
    assert said in companion(*arguments, typed=typed).problem


def test_rules_from_adding_to_removing(companion: Companion) -> None:
    """Rules are added for an account, a kind and everyone, listed and removed."""
    assert companion("rules", "add", "allow", "publish", "t/${username}/#", "--kind", "device").output.startswith(
        "added rule 1"
    )
    assert companion("rules", "add", "deny", "all", "secret/#", "--everyone", "--qos", "0,2", "--retain").code == 0
    assert companion("rules", "add", "allow", "subscribe", "news/+", "--account", "alice").code == 0
    first, second, third = json.loads(companion("rules", "list", "--json").output)
    assert (first["subject"], first["qos"], first["retain"]) == ("kind:device", [0, 1, 2], None)
    assert (second["subject"], second["effect"], second["qos"], second["retain"]) == ("everyone", "deny", [0, 2], True)
    assert third["subject"] == "account:alice"
    assert "t/${username}/#" in companion("rules", "list").output
    assert companion("rules", "remove", "2").output == "removed rule 2\n"
    assert [rule["id"] for rule in json.loads(companion("rules", "list", "--json").output)] == ["1", "3"]


def test_lockouts(companion: Companion, tmp_path: Path) -> None:
    """Lock-outs are listed and lifted, by name, by address or all; nothing to lift is an error that says so."""
    names = [("alice", "10.0.0.1"), ("bob", "10.0.0.1"), ("", "10.0.0.2"), ("carol", "10.0.0.3")]

    async def lock() -> None:
        async with EmbeddedStore.open(tmp_path / "data") as store:
            for number, (username, address) in enumerate(names):
                await store.lockouts.lock(Target(str(number), username, address), Growth(60.0, 60.0, 60.0))

    asyncio.run(lock())
    listed = json.loads(companion("lockouts", "list", "--json").output)
    assert [(one["username"], one["address"], one["times"]) for one in listed] == [(*one, 1) for one in reversed(names)]
    assert "carol" in companion("lockouts", "list").output
    assert companion("lockouts", "clear", "--username", "alice").output == "lifted 1 lock-out\n"
    assert "one that is locked out" in companion("lockouts", "clear", "--username", "alice").problem
    assert companion("lockouts", "clear", "--address", "10.0.0.1").output == "lifted 1 lock-out\n"
    for wrong in ([], ["--all", "--username", "bob"]):
        assert "--all" in companion("lockouts", "clear", *wrong).problem
    assert companion("lockouts", "clear", "--all").output == "lifted 2 lock-outs\n"
    assert companion("lockouts", "clear", "--all").output == "lifted 0 lock-outs\n"
    assert json.loads(companion("lockouts", "list", "--json").output) == []


def test_the_effective_settings(companion: Companion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`companion config` shows every setting and its origin, hides secrets, and names variables that nobody understands."""
    secret = tmp_path / "pw"
    secret.write_text("very secret\n")
    file = tmp_path / "companion.toml"
    file.write_text('[hooks]\nport = 9000\n[mqtt]\nhost = "broker"\n')
    monkeypatch.setenv("COMPANION_MQTT_PASSWORD_FILE", str(secret))
    monkeypatch.setenv("COMPANION_MQTT_HOST", "other")
    monkeypatch.setenv("COMPANION_TYPO", "1")
    shown = companion("--config", str(file), "config", "--json")
    values = json.loads(shown.output)
    assert values["hooks_port"] == {"value": "9000", "origin": str(file), "variable": "COMPANION_HOOKS_PORT"}
    assert (values["mqtt_host"]["value"], values["mqtt_host"]["origin"]) == ("other", "COMPANION_MQTT_HOST")
    assert (values["mqtt_password"]["value"], values["mqtt_password"]["origin"]) == (
        "(set, hidden)",
        "COMPANION_MQTT_PASSWORD_FILE (a file)",
    )
    assert values["ops_port"]["origin"] == "default"
    table = companion("--config", str(file), "config")
    assert "COMPANION_TYPO is no setting" in table.errors
    assert "very secret" not in shown.output + table.output


def test_a_data_folder_that_cannot_be_used(
    companion: Companion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data folder that is a file ends with one line that names it."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPANION_DATA_DIR", str(tmp_path / "file"))
    assert str(tmp_path / "file") in companion("accounts", "list").problem


def test_the_store_is_its_owners_alone(companion: Companion, tmp_path: Path) -> None:
    """The data folder and the file with the hashes can be read by their owner only."""
    companion("accounts", "list")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data" / "companion.sqlite3").stat().st_mode) == 0o600
