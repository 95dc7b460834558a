"""What the files in emqx/ tell the broker and the operators is what the service does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest

from broker_hooks import wire, wire_v4
from broker_hooks.event_wire import parse
from broker_hooks.events import PATH
from companion.keys import Keyring
from companion.loading import load
from companion.metrics import Metrics
from companion.settings import Settings
from tests.support.recording import recorded_requests

EMQX: Final = Path(__file__).parents[2] / "emqx"
CONFIGURATIONS: Final = ("emqx-5.8.conf", "emqx-6.2.conf")
HOOKS: Final = {"auth": wire.connect, "authz": wire.access}
RENAMED: Final = {"clientid": "client_id", "peerhost": "peer_host"}

in_each = pytest.mark.parametrize("name", CONFIGURATIONS)


def text_of(name: str) -> str:
    """Return a file without its comments."""
    lines = (EMQX / name).read_text().splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def block(name: str, hook: str) -> str:
    """Return the configuration from a hook's URL to the end of its body template and what follows it."""
    found = re.search(rf"/mqtt/{hook}\"\n(.*?connect_timeout = \w+)", text_of(name), re.DOTALL)
    assert found
    return found[1]


def template(name: str, hook: str) -> dict[str, str]:
    """Return the body template of a hook."""
    found = re.search(r"body \{(.*?)\n\s*\}", block(name, hook), re.DOTALL)
    assert found
    return dict(re.findall(r'(\w+) = "([^"]*)"', found[1]))


@in_each
@pytest.mark.parametrize("hook", HOOKS)
def test_bodies_are_understood(name: str, hook: str) -> None:
    """What a real EMQX sent, put into our templates, is accepted, and every field of a template is one that the hooks read."""
    fields = template(name, hook)
    assert all(value == f"${{{field}}}" for field, value in fields.items())
    asked = [one for one in recorded_requests() if one.hook == hook and one.body.startswith("{")]
    understood = 0
    for one in asked:
        rendered = {field: one.fields.get(field, "") for field in fields}
        if any(value.startswith("${") for value in one.fields.values()):
            continue  # recorded with a placeholder that EMQX did not know
        request = HOOKS[hook](wire.decode(json.dumps(rendered, separators=(",", ":")).encode(), "application/json"))
        for field, value in rendered.items():
            got = getattr(request, RENAMED.get(field, field), None)
            assert got == {"true": True, "false": False}.get(value, int(value) if field == "qos" else value)
        understood += 1
    assert understood > 5


@in_each
def test_nobody_is_let_in_by_silence(name: str) -> None:
    """What nobody decides is refused, and the only source is the hooks."""
    text = text_of(name)
    assert re.findall(r"no_match = (\w+)", text) == ["deny"]
    assert re.findall(r"\btype = (\w+)", text) == ["http"]
    assert re.findall(r"backend = (\w+)", text) == ["http"]
    assert "type = file" not in text


@in_each
@pytest.mark.parametrize("hook", HOOKS)
def test_the_hooks_answer_first(name: str, hook: str) -> None:
    """EMQX waits for longer than the hooks take at most, one request at a time on each connection."""
    settings = block(name, hook)
    found = re.search(r"request_timeout = (\d+)s", settings)
    assert found
    assert int(found[1]) > Settings.model_fields["hooks_deadline"].default
    assert "enable_pipelining = 1\n" in settings


@in_each
@pytest.mark.parametrize("hook", HOOKS)
def test_the_key_is_presented(name: str, hook: str) -> None:
    """The key comes from the included file, whose line, as the README writes it, makes a header that the hooks admit."""
    assert 'include required("/run/secrets/emqx_hook_header")' in block(name, hook)
    found = re.search(r"printf '(authorization) = \"(Bearer %s)\"\\n'", (EMQX / "README.md").read_text())
    assert found
    assert Keyring(["key-of-the-hooks"]).admits(found[2] % "key-of-the-hooks")


@in_each
def test_the_rule_tells_what_the_hooks_understand(name: str) -> None:
    """The rule's events are ones that the hooks know, they go to the hooks' path with the key, and one action is named by all."""
    text = text_of(name)
    topics = re.findall(r'"(\$events/[^"]+)"', text)
    assert len(topics) == 4
    for topic in topics:
        (event,), ignored = parse(json.dumps({"event": topic, "clientid": "c", "timestamp": 1}).encode(), 0)
        assert (event.client_id, ignored) == ("c", 0)
    action = re.search(r"actions\.http\.(\w+) \{(.*?)\n\}\n", text, re.DOTALL)
    assert action
    assert f'path = "{PATH}"' in action[2]
    assert 'include required("/run/secrets/emqx_hook_header")' in action[2]
    assert f'actions = ["http:{action[1]}"]' in text
    connector = re.search(r"connectors\.http\.(\w+) \{", text)
    assert connector
    assert f"connector = {connector[1]}\n" in action[2]


V4 = "emqx-4.4.conf"


def keys_of_v4() -> dict[str, str]:
    """Return the keys of the files for 4.4; none stands twice."""
    pairs = re.findall(r"^([a-z_.-]+) = (.*)$", text_of(V4), re.MULTILINE)
    assert len(pairs) == len(dict(pairs)) == len([line for line in text_of(V4).splitlines() if line])
    return dict(pairs)


@pytest.mark.parametrize(("request_", "hook"), [("auth_req", "auth"), ("acl_req", "authz")])
def test_questions_of_v4(request_: str, hook: str) -> None:
    """4.4 asks by POST, in forms, with the key, at a path of its own dialect, with what the hooks read, and waits long enough."""
    keys = {key.removeprefix(f"auth.http.{request_}."): value for key, value in keys_of_v4().items()}
    assert wire_v4.PATHS[keys["url"].removeprefix("http://hooks:8080")] == hook
    assert keys["method"] == "post"
    assert keys["headers.content-type"] == "application/x-www-form-urlencoded"
    assert Keyring(["key-of-the-hooks"]).admits(keys["headers.authorization"].replace("<hook key>", "key-of-the-hooks"))
    values = {"%A": "2", "%u": "u", "%c": "c", "%P": "p", "%a": "192.0.2.1", "%t": "t"}
    fields = {name: values[value] for name, value in (pair.split("=") for pair in keys["params"].split(","))}
    asked = HOOKS[hook](wire_v4.named(fields))
    told = {"username": "u", "client_id": "c", "peer_host": "192.0.2.1"}
    told |= {"password": "p"} if hook == "auth" else {"topic": "t", "action": "publish"}
    assert {name: getattr(asked, name) for name in told} == told
    assert int(keys["auth.http.timeout"].removesuffix("s")) > Settings.model_fields["hooks_deadline"].default
    assert keys["auth.http.enable_pipelining"] == "1"


def test_nobody_is_let_in_by_silence_in_v4() -> None:
    """What nobody decides is refused, the file behind the hooks denies all, and no question lets anybody past them."""
    keys = keys_of_v4()
    assert (keys["allow_anonymous"], keys["acl_nomatch"], keys["acl_file"]) == ("false", "deny", "etc/acl-deny.conf")
    assert "{deny, all}." in (EMQX / V4).read_text()
    assert not any(key.startswith("auth.http.super_req") for key in keys)


def test_caches_of_a_node_are_off() -> None:
    """6.2 keeps verdicts for all clients of a node by default; a revocation would not be felt, so that is off."""
    text = text_of("emqx-6.2.conf")
    assert "authentication_settings.node_cache.enable = false" in text
    assert "\n  node_cache.enable = false" in text


def test_settings_exist() -> None:
    """Every setting that the compose file, the image and the README name is one of the service's."""
    named: set[str] = set()
    for name in ("compose.yaml", "Dockerfile", "README.md", "alerts.yml"):
        named |= set(re.findall(r"\bCOMPANION_[A-Z_]+\b", (EMQX / name).read_text()))
    secrets = {name.removesuffix("_FILE") for name in named if name.endswith("_FILE")}
    plain = {name for name in named if not name.endswith("_FILE")}
    assert {"COMPANION_HOOKS_KEYS", "COMPANION_MONGO_URL"} <= secrets | plain
    known = {f"COMPANION_{name.upper()}" for name in Settings.model_fields}
    assert plain | secrets <= known


def test_settings_are_valid() -> None:
    """What the compose file sets for every process is accepted, and it is the production profile."""
    pairs = re.findall(r"^  (COMPANION_\w+): (\S+)$", text_of("compose.yaml"), re.MULTILINE)
    loaded = load(dict(pairs))
    assert (loaded.settings.store, loaded.unknown) == ("production", ())


def test_time_to_stop() -> None:
    """A container is given longer to end than the service takes."""
    found = re.search(r"x-companion:.*?stop_grace_period: (\d+)s", text_of("compose.yaml"), re.DOTALL)
    assert found
    assert int(found[1]) > Settings.model_fields["shutdown_deadline"].default


def test_no_moving_images() -> None:
    """Every image has a version."""
    images = re.findall(r"image: (\S+)", text_of("compose.yaml")) + re.findall(r"FROM (\S+)", text_of("Dockerfile"))
    assert len(images) == 8
    assert all(":" in image and not image.endswith(":latest") for image in images)


@pytest.mark.parametrize("name", ["alerts.yml", "grafana/dashboards/companion.json"])
def test_metrics_exist(name: str) -> None:
    """Every metric of ours that an alert or a panel looks at is one that the service has."""
    declared = set(re.findall(r"^# HELP (\S+)", Metrics().render().decode(), re.MULTILINE))
    text = (EMQX / name).read_text()
    expressions = re.findall(r"expr: (.*)", text) or [
        target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]
    ]
    used = {metric for line in expressions for metric in re.findall(r"\b(?:companion|process)_\w+", line)}
    assert len(used) > 5
    assert {re.sub(r"_(bucket|sum|count)$", "", metric) for metric in used} <= declared
