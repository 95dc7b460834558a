"""Settings that are refused: one line that names the setting, what it was, where that came from, and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from companion.loading import PREFIX, load
from tests.support.settings import MARK, refused, with_file, write


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
