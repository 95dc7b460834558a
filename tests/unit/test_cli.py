"""The command line, as a person types it: what it prints, what it refuses, and that an error is one line."""

from __future__ import annotations

import asyncio
import io
import json
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from companion.cli import main
from companion.core.lockouts import Growth, Target
from companion.core.scram import ScramKeys, keys_in, scram_keys
from companion.stores.embedded import EmbeddedStore
from tests.support.client_certs import client_certificate

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    errors: str

    @property
    def problem(self) -> str:
        """The one line that a failed command prints."""
        assert self.code != 0, self.output
        assert self.output == ""
        assert self.errors.startswith("companion: ")
        assert self.errors.count("\n") == 1, self.errors
        return self.errors.strip()


Companion = Callable[..., Ended]


@pytest.fixture
def companion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Companion:
    """Run `companion ARGUMENTS` in this process with its data in a folder of the test."""
    monkeypatch.setenv("COMPANION_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COMPANION_PASSWORD_COST", "4")

    def run(*arguments: str, typed: str = "") -> Ended:
        monkeypatch.setattr("sys.argv", ["companion", *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Ended(code, captured.out, captured.err)

    return run


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


def test_the_store_is_its_owners_alone(companion: Companion, tmp_path: Path) -> None:
    """The data folder and the file with the hashes can be read by their owner only."""
    companion("accounts", "list")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data" / "companion.sqlite3").stat().st_mode) == 0o600


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


def test_an_account_is_added_once(companion: Companion) -> None:
    """A user name that exists is refused."""
    assert companion("accounts", "add", "a", "--password-file", "-", typed="pw").code == 0
    assert (
        "a user name that does not exist yet"
        in companion("accounts", "add", "a", "--password-file", "-", typed="pw").problem
    )


@pytest.mark.parametrize(
    "content",
    [
        (
            f"username,password_hash,kind,principal,disabled,expires_at,groups,tenant\n"
            f"ada,{HASH},user,p1,true,2030-01-01T00:00:00+00:00,night; day,acme\nbob,{HASH},,,,,,\n"
        ),
        json.dumps(
            [
                {
                    "username": "ada",
                    "password_hash": HASH,
                    "kind": "user",
                    "principal": "p1",
                    "disabled": True,
                    "expires_at": 1893456000,
                    "groups": ["night", "day"],
                    "tenant": "acme",
                },
                {"user_id": "bob", "password_hash": HASH, "is_superuser": False, "salt": ""},
            ]
        ),
        "\n".join(
            [
                json.dumps(
                    {
                        "username": "ada",
                        "password_hash": HASH,
                        "kind": "user",
                        "principal": "p1",
                        "disabled": "1",
                        "expires_at": "1893456000",
                        "groups": "night;day",
                        "tenant": "acme",
                    }
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
    assert ada == {
        "username": "ada",
        "kind": "user",
        "principal": "p1",
        "disabled": True,
        "expires_at": 1893456000,
        "groups": ["night", "day"],
        "tenant": "acme",
    }
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
