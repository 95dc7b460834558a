"""Settings: where they come from, what is refused and how, and that secrets stay secret."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from companion.core.errors import Invalid
from companion.loading import PREFIX, displayed, load
from companion.settings import Settings, secret_fields

MARK = "s3cret-MARKER-0f-the-tests"
SINGLE = {
    "mqtt_password",
    "mongo_url",
    "redis_url",
    "hooks_tls_key_password",
    "ops_tls_key_password",
    "emqx_api_key",
    "emqx_api_secret",
    "s3_access_key",
    "s3_secret_key",
    "anonymizer_key",
    "credential_key",
}
"""The secrets that are no lists."""

LONG = MARK.ljust(64, "x")


def refused(environ: dict[str, str]) -> Invalid:
    """Return the error with which these variables are refused: one printable line."""
    with pytest.raises(Invalid) as problem:
        load(environ)
    assert str(problem.value).isprintable()
    return problem.value


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def with_file(tmp_path: Path, text: str, **environ: str) -> dict[str, str]:
    """Return an environment that names a TOML file of this text."""
    return {"COMPANION_CONFIG": write(tmp_path / "companion.toml", text), **environ}


# Where they come from


def test_defaults() -> None:
    """Nothing needs to be configured; every setting says what it means."""
    loaded = load({"HOME": "/nowhere", "PATH": "/bin"})
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.unknown == ()
    assert loaded.settings.hooks_port == 8080
    assert loaded.settings.data_dir.name == "companion"
    assert all(info.description for info in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("data_dir", "/data", Path("/data")),
        ("hooks_port", "0", 0),
        ("hooks_deadline", "2.5", 2.5),
        ("mqtt_tls", "true", True),
        ("mqtt_tls", "0", False),
        ("log_format", "json", "json"),
        ("publisher_qos", "2", 2),
        ("hooks_credentials", "password", ("password",)),
        ("hooks_credentials", " password , token ,", ("password", "token")),
        ("token_algorithms", "HS256\nHS512", ("HS256", "HS512")),
        ("publisher_topics", "{owner}/x,{share}/{db}", ("{owner}/x", "{share}/{db}")),
        ("hooks_keys", f"{LONG},{MARK}", (SecretStr(LONG), SecretStr(MARK))),
        ("mqtt_password", " with spaces, and a comma ", SecretStr(" with spaces, and a comma ")),
        ("mqtt_ca_file", "/ca.pem", Path("/ca.pem")),
    ],
)
def test_from_the_environment(name: str, text: str, value: object) -> None:
    """A variable holds text; what it means is the setting's business. Lists are separated by commas or lines."""
    variable = f"{PREFIX}{name.upper()}"
    loaded = load({variable: text})
    assert getattr(loaded.settings, name) == value
    assert loaded.origins[name] == variable


def test_from_a_file(tmp_path: Path) -> None:
    """A table's name is the first part of a setting's; whole names may stand at the top."""
    environ = with_file(
        tmp_path,
        f"""
        log_level = "error"
        [hooks]
        port = 1
        keys = ["{LONG}"]
        credentials = ["password"]
        [mqtt]
        tls = true
        ca_file = "/ca.pem"
        [publisher]
        topics = ["{{owner}}"]
        """,
    )
    loaded = load(environ)
    settings = loaded.settings
    assert (settings.log_level, settings.hooks_port, settings.mqtt_tls) == ("error", 1, True)
    assert (settings.hooks_keys, settings.hooks_credentials) == ((SecretStr(LONG),), ("password",))
    assert (settings.mqtt_ca_file, settings.publisher_topics) == (Path("/ca.pem"), ("{owner}",))
    from_file = {name for name, origin in loaded.origins.items() if origin == environ["COMPANION_CONFIG"]}
    assert from_file == {
        "log_level",
        "hooks_port",
        "hooks_keys",
        "hooks_credentials",
        "mqtt_tls",
        "mqtt_ca_file",
        "publisher_topics",
    }


def test_the_environment_beats_the_file(tmp_path: Path) -> None:
    """What is in both comes from the environment, also when one of them names a file of secrets."""
    secret = write(tmp_path / "secret", "of the file\n")
    environ = with_file(
        tmp_path,
        f'[hooks]\nport = 1\nhost = "::1"\n[mqtt]\npassword_file = "{secret}"\n',
        COMPANION_HOOKS_PORT="2",
        COMPANION_MQTT_PASSWORD="of the variable",
    )
    loaded = load(environ)
    assert (loaded.settings.hooks_port, loaded.settings.hooks_host) == (2, "::1")
    assert loaded.settings.mqtt_password == SecretStr("of the variable")
    assert loaded.origins["hooks_port"] == "COMPANION_HOOKS_PORT"
    assert loaded.origins["hooks_host"] == environ["COMPANION_CONFIG"]


@pytest.mark.parametrize("way", ["variable", "file"])
def test_secrets_from_files(tmp_path: Path, way: str) -> None:
    """Every secret can stand in a file of its own; the line break at its end is not part of it, lists have one a line."""
    for name in secret_fields():
        listed = name not in SINGLE
        path = write(tmp_path / name, f"{LONG}\n{LONG}2\n" if listed else f" {LONG} \r\n")
        of_variable = {f"{PREFIX}{name.upper()}_FILE": path}
        loaded = load(of_variable if way == "variable" else with_file(tmp_path, f'{name}_file = "{path}"'))
        value = getattr(loaded.settings, name)
        assert value == ((SecretStr(LONG), SecretStr(f"{LONG}2")) if listed else SecretStr(f" {LONG} "))
        assert loaded.origins[name].endswith(" (a file)")


def test_only_secrets_are_read_from_files(tmp_path: Path) -> None:
    """A path for what is no secret is an unknown variable, or an unknown key."""
    path = write(tmp_path / "port", "1")
    assert load({"COMPANION_HOOKS_PORT_FILE": path}).unknown == ("COMPANION_HOOKS_PORT_FILE",)
    assert refused(with_file(tmp_path, f'[hooks]\nport_file = "{path}"')).field == "hooks_port_file"


def test_unknown_variables_are_reported() -> None:
    """Orchestrators add variables of their own, so unknown ones stop nothing; they are told by name, without the value."""
    loaded = load({"COMPANION_SERVICE_HOST": MARK, "COMPANION_": "x", "COMPANIONS": "x", "COMPANION_HOOKS_PORT": "1"})
    assert loaded.unknown == ("COMPANION_", "COMPANION_SERVICE_HOST")
    assert MARK not in repr(loaded)


def test_they_cannot_be_changed() -> None:
    """Settings are what they were at the start."""
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.hooks_port = 1  # type: ignore[misc]


# What is refused


@pytest.mark.parametrize(
    ("content", "environ", "field"),
    [
        ("hooks_port = 1\n[hooks]\nport = 2", {}, "hooks_port"),
        ('[mqtt]\npassword = "a"\npassword_file = "FILE"', {}, "mqtt_password"),
        ("", {"COMPANION_MQTT_PASSWORD": "a", "COMPANION_MQTT_PASSWORD_FILE": "FILE"}, "mqtt_password"),
        ("", {"COMPANION_HOOKS_PORT": "1", "COMPANION_Hooks_Port": "2"}, "hooks_port"),
    ],
)
def test_two_values_in_one_place(tmp_path: Path, content: str, environ: dict[str, str], field: str) -> None:
    """Which of two was meant is not guessed."""
    path = write(tmp_path / "secret", "b")
    given = {name: value.replace("FILE", path) if value == "FILE" else value for name, value in environ.items()}
    problem = refused(with_file(tmp_path, content.replace("FILE", path), **given))
    assert problem.field == field
    assert "two values" in str(problem)


def test_a_short_credential_key() -> None:
    """Passwords could be guessed against a key that can be guessed; the refusal does not show it."""
    problem = refused({"COMPANION_CREDENTIAL_KEY": MARK[:23]})
    assert problem.field == "credential_key"
    assert "at least 24 bytes" in str(problem)
    assert MARK[:23] not in str(problem)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("hooks_port", "70000", "less than or equal to 65535"),
        ("hooks_port", "-1", "greater than or equal to 0"),
        ("hooks_port", "eighty", "valid integer"),
        ("hooks_port", "", "valid integer"),
        ("mqtt_port", "0", "greater than or equal to 1"),
        ("hooks_deadline", "0", "greater than 0"),
        ("hooks_deadline", "nan", "less than or equal to 86400"),
        ("hooks_deadline", "inf", "less than or equal to 86400"),
        ("cache_poll", "-0.1", "greater than 0"),
        ("retention_changes", "inf", "less than or equal to 36500"),
        ("retention_audits", "1e300", "less than or equal to 36500"),
        ("retention_audits", "nan", "less than or equal to 36500"),
        ("mqtt_tls", "perhaps", "valid boolean"),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("log_sample", "1.1", "less than or equal to 1"),
        ("publisher_qos", "0", "1 or 2"),
        ("publisher_qos", "one", "1 or 2"),
        ("mqtt_protocol", "4", "'5' or '3.1.1'"),
        ("token_algorithms", "HS256,RS1", "'HS256', 'HS384', 'HS512'"),
        ("token_algorithms", "none", "'HS256', 'HS384', 'HS512'"),
        ("token_algorithms", "", "at least 1 item"),
        ("hooks_credentials", "", "at least 1 item"),
        ("hooks_credentials", "password,luck", "'token', 'apt', 'certificate' or 'password'"),
        ("publisher_topics", "/#", "wildcard"),
        ("publisher_topics", "{nobody}", "{owner}"),
        ("publisher_topics", " , ", "at least 1 item"),
        ("password_cost", "3", "greater than or equal to 4"),
        ("password_cost", "15", "at most password_max_cost (14)"),
        ("credential_seconds", "-1", "greater than or equal to 0"),
        ("throttle_exempt", "10.0.0.0/8,10.0.0.1/8", "'10.0.0.1/8': an address or a network"),
        ("throttle_exempt", "localhost", "'localhost': an address or a network"),
        ("throttle_ban_after", "3", "needs emqx_url, emqx_api_key and emqx_api_secret"),
        ("password_deadline", "3", "less than hooks_deadline (3.0 s)"),
        ("hooks_max_body", "2000000", "less than or equal to 1048576"),
        ("store", "both", "'embedded' or 'production'"),
        ("redis_mode", "ring", "'standalone', 'sentinel' or 'cluster'"),
        ("redis_prefix", "a b", "pattern"),
    ],
)
def test_wrong_values(name: str, text: str, said: str) -> None:
    """One line names the setting, what it was, where that came from, and what would be right."""
    variable = f"{PREFIX}{name.upper()}"
    problem = refused({variable: text})
    assert problem.field == name
    assert said in problem.allowed
    assert f"(from {variable})" in str(problem) or name == "publisher_topics"
    assert text in str(problem)


def test_production_needs_both_addresses() -> None:
    """The production stores do not start without knowing where they are."""
    environ = {"COMPANION_STORE": "production", "COMPANION_MONGO_URL": "mongodb://localhost"}
    problem = refused(environ)
    assert (problem.field, "store = production" in problem.allowed) == ("redis_url", True)
    assert load(environ | {"COMPANION_REDIS_URL": "redis://localhost"}).settings.store == "production"


@pytest.mark.parametrize("name", ["mongo_timeout", "redis_timeout"])
def test_stores_answer_before_the_hooks_must(name: str) -> None:
    """A store that may take as long as the whole answer could never be answered for."""
    environ = {"COMPANION_MONGO_URL": "mongodb://localhost", "COMPANION_REDIS_URL": "redis://localhost"}
    assert load({f"COMPANION_{name.upper()}": "3"}).settings.store == "embedded"
    problem = refused({**environ, "COMPANION_STORE": "production", f"COMPANION_{name.upper()}": "3"})
    assert (problem.field, "less than hooks_deadline (3.0 s)" in problem.allowed) == (name, True)


@pytest.mark.parametrize("port", ["HOOKS", "OPS"])
@pytest.mark.parametrize(("given", "field"), [("CERT", "key"), ("KEY", "cert"), ("CLIENT_CA", "client_ca")])
def test_a_certificate_has_its_key(port: str, given: str, field: str) -> None:
    """Half of what TLS needs is no TLS: the one that is missing is named, or the one that says nothing without it."""
    assert refused({f"COMPANION_{port}_TLS_{given}": "file.pem"}).field == f"{port.lower()}_tls_{field}"


def test_wrong_values_in_a_file(tmp_path: Path) -> None:
    """The same from a file names the file."""
    environ = with_file(tmp_path, '[hooks]\nport = "eighty"')
    problem = refused(environ)
    assert (problem.field, problem.value) == ("hooks_port", "'eighty'")
    assert f"(from {environ['COMPANION_CONFIG']})" in str(problem)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[hooks\nport = 1", "line 1"),
        ("port = eighty", "line 1"),
        ("a = 1\na = 2", "overwrite"),
        (f"[mqtt]\npassword = {MARK}", "line 2"),
        (f'[mqtt]\npassword = "{MARK}', "Unterminated string"),
        (f'[mqtt]\npassword = "{MARK}"\npassword = "{MARK}"', "overwrite"),
    ],
)
def test_a_file_that_is_no_toml(tmp_path: Path, content: str, said: str) -> None:
    """A file that cannot be understood is refused with the place, and nothing of its text."""
    problem = refused(with_file(tmp_path, content))
    assert problem.field == "COMPANION_CONFIG"
    assert said in str(problem)
    assert MARK not in str(problem)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is missing, a folder, or no text, is named."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path, said in (
        (tmp_path / "missing", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "binary", "utf-8"),
    ):
        problem = refused({"COMPANION_CONFIG": str(path)})
        assert (problem.field, said in str(problem)) == ("COMPANION_CONFIG", True)


def test_a_secret_file_that_cannot_be_read(tmp_path: Path) -> None:
    """The same for a file of secrets, also under a name that no file can have."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path, said in ((f"{tmp_path}/missing", "No such file"), (f"{tmp_path}/binary", "utf-8")):
        problem = refused({"COMPANION_MQTT_PASSWORD_FILE": path})
        assert (problem.field, said in str(problem)) == ("mqtt_password_file", True)
    problem = refused(with_file(tmp_path, '[mqtt]\npassword_file = "a\\u0000b"'))
    assert problem.field == "mqtt_password_file"


# Secrets


def test_which_settings_are_secret() -> None:
    """Keys, token secrets, passwords, and addresses that hold one."""
    assert secret_fields() == {"apt_keys", "hooks_keys", "ops_keys", "token_secrets"} | SINGLE


def test_secrets_are_not_shown() -> None:
    """Neither the settings, nor what shows them to people, repeat a secret."""
    loaded = load({f"{PREFIX}{name.upper()}": LONG for name in secret_fields()})
    shown = dict(displayed(loaded.settings))
    assert {shown[name] for name in secret_fields()} == {"(1 set, hidden)", "(set, hidden)"}
    for text in (repr(loaded), str(loaded.settings), repr(shown), loaded.settings.model_dump_json()):
        assert MARK not in text
    nothing = dict(displayed(Settings()))
    assert {nothing[name] for name in secret_fields()} == {"(not set)"}


def test_everything_is_shown() -> None:
    """Every setting is there as text: lists with commas, what is not set as nothing."""
    shown = dict(displayed(Settings(token_algorithms=("HS256", "HS512"))))
    assert list(shown) == list(Settings.model_fields)
    assert (shown["hooks_port"], shown["mqtt_ca_file"], shown["token_algorithms"]) == ("8080", "", "HS256, HS512")


WRONG_SECRETS: dict[str, dict[str, Any]] = {
    "a hook key with a space": {"COMPANION_HOOKS_KEYS": f"{MARK} x"},
    "a hook key with an umlaut": {"COMPANION_HOOKS_KEYS": f"{MARK}ü"},
    "one of many": {"COMPANION_OPS_KEYS": f"{LONG},short,{MARK}"},
    "a token secret that is too short": {"COMPANION_TOKEN_SECRETS": MARK},
    "a token secret that is too short for its algorithm": {
        "COMPANION_TOKEN_SECRETS": MARK.ljust(48, "x"),
        "COMPANION_TOKEN_ALGORITHMS": "HS256,HS512",
    },
    "beside another mistake": {"COMPANION_MQTT_PASSWORD": MARK, "COMPANION_HOOKS_PORT": "x"},
    "beside a mistake between two": {"COMPANION_TOKEN_SECRETS": LONG, "COMPANION_HOOKS_DEADLINE": "1"},
}


@pytest.mark.parametrize("name", WRONG_SECRETS)
def test_wrong_secrets_are_not_shown(name: str) -> None:
    """What is wrong about a secret is said without it, also in what an error drags along."""
    problem = refused(WRONG_SECRETS[name])
    assert MARK not in "".join(traceback.format_exception(problem))


@pytest.mark.parametrize(
    "content",
    [
        f'[mqtt]\npasword = "{MARK}"',
        f'mqtt_pass = "{MARK}"',
        f'[mqtt.password]\nvalue = "{MARK}"',
        f'mqtt = "{MARK}"',
        f'[[hooks]]\nkeys = ["{MARK}"]',
        f'[hooks]\nkeys = [["{MARK}"]]',
        f'[hooks]\nkeys = {{a = "{MARK}"}}',
        f'[token]\nsecrets = ["{MARK}", 17]',
        f'[hooks.keys.deep]\nkey = "{MARK}"',
    ],
)
def test_secrets_in_the_wrong_place_are_not_shown(tmp_path: Path, content: str) -> None:
    """A secret under a misspelt name, or in a wrong form, is not repeated either."""
    problem = refused(with_file(tmp_path, content))
    assert MARK not in "".join(traceback.format_exception(problem))
    assert str(tmp_path) in str(problem)


# Tables


TABLES = """
[[mongo.accounts]]
like = "emqx"
collection = "shop.mqtt_user"
salt_position = "suffix"

[[mongo.accounts]]
collection = "crm.people"
username = "mail"
secret = "login.hash"

[[mongo.rules]]
like = "emqx"
"""


def test_tables_in_the_file(tmp_path: Path) -> None:
    """Lists of tables come from the file; a known schema fills in what a table leaves out."""
    settings = load(with_file(tmp_path, TABLES)).settings
    emqx, people = settings.mongo_accounts
    assert (emqx.collection, emqx.secret, emqx.salt, emqx.secret_format, emqx.salt_position) == (
        "shop.mqtt_user",
        "password_hash",
        "salt",
        "sha256",
        "suffix",
    )
    assert (people.username, people.secret, people.kind) == (("mail",), "login.hash", "user")
    assert [str(one) for one in settings.mongo_rules] == ["mqtt.mqtt_acl"]
    assert dict(displayed(settings))["mongo_accounts"] == "shop.mqtt_user, crm.people"


def test_tables_in_the_environment() -> None:
    """They are JSON there, and a dash stands for none."""
    text = '[{"like": "go-auth"}]'
    settings = load({"COMPANION_MONGO_ACCOUNTS": text, "COMPANION_MONGO_RULES": "-"}).settings
    assert [str(one) for one in settings.mongo_accounts] == ["mosquitto.users"]
    assert settings.mongo_rules == ()


@pytest.mark.parametrize(
    ("text", "field", "allowed"),
    [
        ("{", "mongo_accounts", "a JSON list of tables, or - for none"),
        ("7", "mongo_accounts", "valid tuple"),
        ('[{"collection": "a.b"}, {"like": "nobody"}]', "mongo_accounts.1", "one of users, devices"),
        ('[{"like": "emqx", "colour": 1}]', "mongo_accounts.0.colour", "Extra inputs"),
        ('[{"like": "emqx", "kind": "robot"}]', "mongo_accounts.0.kind", "'device', 'user' or 'service'"),
        ('[{"like": "emqx", "username": []}]', "mongo_accounts.0.username", "at least 1"),
        ('[{"like": "emqx", "secret_format": "md5"}]', "mongo_accounts.0.secret_format", "'sha256'"),
        ('[{"collection": "people"}]', "mongo_accounts.0.collection", "database.collection"),
        ('[{"collection": "admin.users"}]', "mongo_accounts.0.collection", "database.collection"),
        ('[{"collection": "a.mqtt_accounts"}]', "mongo_accounts.0.collection", "none of our own"),
        ('[{"like": "go-auth", "common_acls": "acls"}]', "mongo_accounts.0.common_acls", "database.collection"),
        ("[{}]", "mongo_accounts.0.collection", "required"),
    ],
)
def test_wrong_tables(text: str, field: str, allowed: str) -> None:
    """The error names the table and the key that is wrong, and what is allowed."""
    problem = refused({"COMPANION_MONGO_ACCOUNTS": text})
    assert problem.field == field
    assert allowed in problem.allowed
