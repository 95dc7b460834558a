"""Settings: where they come from, and which of two places counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from companion.loading import PREFIX, displayed, load
from companion.settings import Settings, secret_fields
from tests.support.settings import LONG, MARK, refused, with_file, write

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


def test_which_settings_are_secret() -> None:
    """Keys, token secrets, passwords, and addresses that hold one."""
    assert secret_fields() == {"apt_keys", "hooks_keys", "ops_keys", "token_secrets"} | SINGLE


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
